"""What reports say of nodes: one that fails job after job is excluded."""

from __future__ import annotations

from ailurus.protocol import messages as m
from ailurus.protocol.errors import NODES, TAKEN_AWAY
from dispatcher.events import HostExcluded
from dispatcher.memory.black_holes import Node, Verdict
from dispatcher.memory.leases import Lease
from dispatcher.ports import Tx
from dispatcher.service.peers import Peers
from dispatcher.service.state import State, log


class Nodes:
    """Counts how attempts ended on nodes, and excludes black holes."""

    def __init__(self, state: State, peers: Peers) -> None:
        self._state = state
        self._peers = peers

    async def count(self, lease: Lease, report: m.Report) -> None:
        """What a report says about the node; a node that fails job after job is excluded."""
        worker = self._state.live.get(lease.worker_id)
        if worker is None or not lease.begun or report.code in TAKEN_AWAY:
            return
        node, now = (worker.site, worker.host), self._state.now()
        verdict = Verdict(
            node,
            lease.owner,
            report.job_id,
            good=report.finished,
            lasted_s=now - lease.begun,
            at=now,
            diagnosis=report.diagnosis[:300],
            lacks=report.code in NODES,
        )
        suspect = self._state.hosts.count(verdict)
        if self._state.hosts.concerns_peers(verdict):
            await self._peers.send_verdict(verdict)
        if not suspect:
            return
        others = [
            other
            for other in self._state.live.values()
            if other.site == worker.site and other.host != worker.host
        ]
        runs = any(
            held.owner == lease.owner and held.begun and now - held.begun > 2 * verdict.lasted_s + 5
            for other in others
            for held in self._state.leases.of_worker(other.worker_id)
        )
        nodes = len({other.host for other in others}) + 1
        if self._state.hosts.judge(node, runs_elsewhere=runs, known_nodes=nodes, now=now):
            await self._exclude(node)

    async def _exclude(self, node: Node) -> None:
        """Report an excluded node, and let its workers finish what they have and go."""
        site, host = node
        found = self._state.hosts.excluded(node, self._state.now())
        workers = [one for one in self._state.live.values() if (one.site, one.host) == node]

        def change(tx: Tx) -> None:
            for one in workers:
                tx.run("worker.drain", worker_id=one.worker_id, site=site)
            if found is not None:
                until, reason, now = found.until, found.reason, self._state.now()
                tx.run("node.exclude", site=site, host=host, until=until, reason=reason)
                event = HostExcluded(site=site, host=host, until=until, reason=reason)
                tx.tell(event, at=now)

        await self._state.store.write(change)
        log.warning("host_excluded", site=site, host=host, reason=found and found.reason)
        for one in workers:
            one.draining = True
            self._state.hub.wake(one.worker_id)
