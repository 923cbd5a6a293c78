"""How workers begin: the planned ones of edges, and those of pilots started by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.events import WorkerChanged
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import records, worker_records
from dispatcher.rules.worker_records import PlannedWorker
from dispatcher.service.state import State

_encode = msgspec.json.Encoder().encode
# A worker token ends with its worker, at the latest a week later.
TOKEN_S = 7 * 86_400.0
# No edge has told that its batch system has it.
UNSEEN = (Phase.PLANNED, Phase.SUBMITTING)
GONE = "this worker has been given up or was never planned"


class _Written(NamedTuple):
    """A worker as the store has it now."""

    worker_id: int
    draining: bool
    lost: bool
    """Whether it had been taken for lost."""
    outage_s: float | None
    """How long its relay may be cut off; None: it has none."""


class Registration:
    """Registers workers."""

    def __init__(self, state: State, mint: Callable[..., str]) -> None:
        """`mint(subject, scopes, lifetime_s, **claims)` makes tokens."""
        self._state = state
        self._mint = mint

    async def register(self, ask: m.Register, caller: Caller) -> m.Registered:
        """Begin a worker: the planned one of a bootstrap token, or a new one for a pilot token.
        Raises Rejected."""
        planned = caller.may(Scope.BOOTSTRAP)
        site, queue = (caller.site, caller.queue) if planned else (ask.site, ask.queue)
        written = await self._state.store.write(lambda tx: self._write(tx, ask, caller))
        worker_id = written.worker_id
        # Nothing is awaited from here on: a change that ends the worker just after this one must
        # find it in memory, to forget it.
        if written.outage_s is not None:
            self._state.relay_silence_s[worker_id] = written.outage_s
        before = self._state.live.get(worker_id)
        now = self._state.now()
        worker = self._state.remember(worker_id, site, queue, ask.host, ask.total, now)
        worker.draining, worker.hardware = written.draining, ask.hardware
        self._state.unserved.add(queue, worker_id)
        # what it lost it may have still: it says so with its first heartbeat
        worker.silent = written.lost or (before is not None and before.silent)
        token = self._mint(
            f"worker:{worker_id}",
            (Scope.WORKER,),
            TOKEN_S,
            worker_id=worker_id,
            site=site,
            queue=queue,
            of=caller.lineage,
        )
        return m.Registered(
            worker_id=worker_id,
            token=token,
            heartbeat_s=self._state.heartbeat_s,
            lease_s=self._state.length(worker_id),
            giver=self._state.giver,
        )

    def _write(self, tx: Tx, ask: m.Register, caller: Caller) -> _Written:
        planned = caller.may(Scope.BOOTSTRAP)
        instance = ask.instance if planned else instance_of(caller, ask.instance)
        facts = {
            "host": ask.host,
            "instance": instance,
            "batch_id": ask.batch_id,
            "version": ask.version,
            "now": self._state.now(),
            "total": _encode(ask.total).decode(),
        }
        known = (
            self._claim(tx, caller, ask.instance)
            if planned
            else worker_records.find_by_instance(tx, instance)
        )
        lost = known is not None and known.phase == Phase.ENDED
        if known is None:
            added = tx.one("worker.add", site=ask.site, queue=ask.queue, **facts)
            worker_id = records.value(added, 0)
        elif lost and not planned and known.ending != Ending.LOST:
            raise Rejected(410, GONE, remedy="exit")
        else:
            worker_id = known.worker_id
            tx.run("worker.register", worker_id=worker_id, **facts)
        if ask.hardware is not None:
            hardware = _encode(ask.hardware).decode()
            tx.run("worker.describe", worker_id=worker_id, hardware=hardware)
        stored = worker_records.find_worker(tx, worker_id)
        came = WorkerChanged(phase=Phase.ACTIVE, host=ask.host)
        tx.tell(came, at=self._state.now(), worker_id=worker_id)
        draining = stored is not None and bool(stored.draining)
        home = worker_records.find_home(tx, worker_id) if planned else None
        return _Written(worker_id, draining, lost, home.outage_s if home is not None else None)

    def _claim(self, tx: Tx, caller: Caller, instance: str) -> PlannedWorker:
        """The planned worker of a bootstrap token, if this process may be it. Raises Rejected."""
        worker = worker_records.find_planned(tx, caller.intent, caller.index, caller.site)
        if worker is None:
            remedy = "exit; the edge plans another one if there is work"
            raise Rejected(410, GONE, remedy=remedy, known=False)
        registered = worker.registered is not None
        if registered and worker.instance != instance:
            raise Rejected(
                409,
                "another pilot has registered with this token",
                remedy="exit: this one is a stray",
            )
        late = worker.deadline is not None and self._state.now() > worker.deadline
        if late and not registered:
            raise Rejected(410, "the deadline of this worker has passed", remedy="exit")
        if worker.phase == Phase.ENDED and registered and worker.ending != Ending.LOST:
            raise Rejected(410, GONE, remedy="exit")
        site = self._state.sites.get(caller.site)
        if site is not None and caller.epoch < site.epoch and worker.phase in UNSEEN:
            raise Rejected(
                410,
                f"another edge has taken site {caller.site} and has not seen this worker",
                remedy="exit: it was submitted after its edge had lost the site",
            )
        return worker


def instance_of(caller: Caller, instance: str) -> str:
    """The name under which the store knows a pilot started by hand: with whose token it came, for
    nobody is to be taken for another's pilot who knows its name, nor for a PanDA client."""
    return f"\n{caller.subject}\n{instance}"
