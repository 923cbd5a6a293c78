"""A Harvester instance: a PanDA server as the edge's upstream (docs/decisions/0180).

A PanDA server gives no leases of sites, vouches for no worker and does not tell which pilots live.
What it lacks is made up for here or left to the evidence of the batch system; nothing is sent but
what Harvester sends.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from ailurus import __version__
from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol import panda
from ailurus.protocol.resources import Shape
from ailurus.protocol.units import duration_s
from ailurus.protocol.worker import Outcome
from ailurus.wire.client import Refused
from harvester_edge.book import Book
from harvester_edge.decide import TROUBLES
from harvester_edge.evidence import Worker
from harvester_edge.panda import translate
from harvester_edge.panda.store import PandaStore
from harvester_edge.panda.translate import Target, Type
from harvester_edge.site import PandaPart, Site, Slot
from harvester_edge.upstream import Demand, Key

HEARTBEAT_S = 600.0
STATISTICS_S = 300.0
TYPES_S = 3600.0
COMMANDS_A_REQUEST = 20
WORKERS_A_REQUEST = 100
LABEL = "managed"

Open = Mapping[tuple[str, str, str], int]
"""Pilots still to be started, by queue, label and resource type."""


class PandaCaller(Protocol):
    """What this module uses of `Server`."""

    @property
    def url(self) -> str: ...

    def call(self, path: str, arguments: Mapping[str, Any]) -> Any: ...


class Instance:
    """One edge to one PanDA server. Implements the port `Upstream`."""

    pilots_register = False

    def __init__(
        self,
        site: Site,
        part: PandaPart,
        server: PandaCaller,
        book: Book,
        live: Callable[[], Collection[Worker]],
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        """`live`: the workers that have not ended."""
        self._site, self._part, self._server, self._book = site, part, server, book
        self._live, self._clock, self._log = live, clock, log
        self._id = part.harvester_id
        self._host = socket.gethostname()
        self._store = PandaStore(site.state / "panda.sqlite")
        self._started = False
        self._statistics_sent = 0.0
        self._dialogs = 0
        self._types: dict[str, Type] = {}
        self._types_read = 0.0
        self._condemned = self._store.condemned()
        # What the next order of a slot is for.
        self._next: dict[str, Target] = {}

    # --- the port ---------------------------------------------------------------------------------

    def hello(self, ask: m.Hello) -> m.Welcome:
        """Send a heartbeat. The site is ours as long as nobody else uses the instance's name."""
        now = self._clock()
        beat = {"harvester_id": self._id, "data": {} if self._started else self._introduction(now)}
        try:
            self._server.call("harvester/heartbeat", beat)
        except Refused:
            # An instance that the server has not known before; it knows it now.
            self._server.call("harvester/heartbeat", beat)
        if self._store.last_id() is None:
            last = self._server.call("harvester/get_current_worker_id", {"harvester_id": self._id})
            self._store.start_after(panda.number(last) or 0)
        if not self._started:
            self._log.info("harvester_started", harvester_id=self._id, url=self._server.url)
        self._started = True
        keep = now - duration_s(self._site.policy.keep)
        self._store.forget(keep, [worker.intent for worker in self._live()])
        return m.Welcome(epoch=1, lease_s=3 * HEARTBEAT_S)

    def demand(self, ask: m.DemandRequest) -> Demand:
        """Obey the server's commands, then say what is still to be started; report statistics in
        time."""
        now = self._clock()
        live = self._live()
        if now - self._types_read > TYPES_S:
            listed = self._server.call("metaconfig/get_resource_types", {}) or []
            self._types, self._types_read = translate.types(listed, self._part.mcore), now
        statistics_wanted = self._obey(live, now)
        still_open: Open = {}
        if self._part.run_mode == "slave":
            shapes, sentences, still_open = self._targeted(live)
        else:
            shapes, sentences = self._activated()
        if statistics_wanted or now - self._statistics_sent > STATISTICS_S:
            self._send_statistics(live, still_open)
            self._statistics_sent = now
        if ask.word is not None:
            self._send_dialog(ask.word, now)
        return Demand(m.Demand(shapes=tuple(shapes), workers=()), tuple(sentences))

    def plan(self, ask: m.NewIntent) -> tuple[str, ...]:
        """The credential of a worker is its number at the server: nobody registers."""
        worker = self._book.get(ask.intent, 0)
        label, kind = self._purpose(worker.slot if worker else "")
        self._store.record_intent(ask.intent, label, kind, self._clock())
        return tuple(map(str, self._store.new_ids(ask.count)))

    def worker_id(self, credential: str) -> int:
        return int(credential)

    def adopted_worker_id(self) -> int:
        return self._store.new_ids(1)[0]

    def report(self, ask: m.WorkerObservations) -> None:
        """Send `update_workers` for those whose state PanDA has a word for."""
        purposes = self._store.purposes()
        workers = [self._book.get(one.intent, one.index) for one in ask.workers]
        messages = [
            translate.worker_message(
                worker,
                self._site.slots.get(worker.slot),
                *purposes.get(worker.intent) or self._purpose(worker.slot),
                self._host,
            )
            for worker in workers
            if worker is not None and worker.worker_id and translate.status(worker) is not None
        ]
        for at in range(0, len(messages), WORKERS_A_REQUEST):
            part = messages[at : at + WORKERS_A_REQUEST]
            self._server.call(
                "harvester/update_workers", {"harvester_id": self._id, "workers": part}
            )

    def drain(self, ask: m.DrainWorkers) -> None:
        """PanDA drains no pilots: theirs leave when there is no job."""

    def condemned(self) -> frozenset[Key]:
        return self._condemned

    def close(self) -> None:
        self._store.close()

    # --- the server's commands --------------------------------------------------------------------

    def _introduction(self, now: float) -> dict[str, Any]:
        """What the first heartbeat says."""
        data: dict[str, Any] = {
            "startTime": translate.timestamp(now),
            "sw_version": f"ailurus-{__version__}",
            "commit_stamp": "",
        }
        if self._part.run_mode == "slave":
            data["commands"] = [
                {"command": command, "computingSite": queue, "resourceType": translate.ANY}
                for queue in self._queues()
                for command in (translate.STATISTICS, translate.START)
            ]
        return data

    def _obey(self, live: Collection[Worker], now: float) -> bool:
        """Fetch commands, store what they want, then acknowledge them. Whether one asks for
        statistics."""
        statistics, ids = False, []
        most = {"harvester_id": self._id, "n_commands": COMMANDS_A_REQUEST}
        for one in self._server.call("harvester/acquire_commands", most) or []:
            name, _, queue = str(one.get("command")).partition(":")
            params = one.get("params")
            if name == translate.START:
                self._store.set_targets(translate.targets(queue, params, now))
            elif name == translate.STATISTICS:
                statistics = True
            elif name in (translate.KILL, translate.SYNC_KILL):
                self._condemn(name, params, live, now)
            else:
                self._log.warning("command_not_known", command=str(one.get("command"))[:200])
            if panda.number(one.get("ack_requested")):
                ids.append(one.get("command_id"))
        if ids:
            self._server.call("harvester/acknowledge_commands", {"command_ids": ids})
        return statistics

    def _condemn(self, command: str, params: Any, live: Iterable[Worker], now: float) -> None:
        if command == translate.SYNC_KILL:
            doomed = translate.listed_workers(params, live)
        else:
            doomed = translate.matching_workers(params, live, self._host)
        keys = [worker.key for worker in doomed]
        self._store.condemn(keys, now)
        self._condemned = self._store.condemned()
        self._log.info("workers_condemned", command=command, workers=len(keys))

    # --- demand -----------------------------------------------------------------------------------

    def _targeted(
        self, live: Collection[Worker]
    ) -> tuple[list[m.ShapeDemand], list[str], dict[tuple[str, str, str], int]]:
        """What is still open of the server's targets: as jobs that fill a worker each, beyond those
        that the workers on their way will take. Of targets for one slot the largest, for an order
        is of one resource type; the others' turns come."""
        waiting = Counter(worker.slot for worker in live if worker.waits)
        wanted: dict[str, int] = {}
        sentences, still_open = [], {}
        self._next = {}
        for target in self._store.targets():
            kind = None if target.kind == translate.ANY else self._type(target.kind)
            found = translate.slot_for(self._site, target.queue, kind)
            if found is None:
                if target.pilots and target.queue in self._queues():
                    sentences.append(
                        f"no slot of queue {target.queue} holds a pilot of {target.kind}"
                    )
                continue
            slot, each = found
            rest = max(0, target.pilots - each * self._started_for(target, slot))
            if target.pilots:
                sentences.append(
                    f"the server asked for {target.pilots} pilots of {target.kind} ({target.label}) in "
                    f"queue {target.queue}, of which {rest} are still to be started"
                )
            still_open[target.queue, target.label, target.kind] = rest
            if (workers := -(-rest // each)) > wanted.get(slot, 0):
                wanted[slot], self._next[slot] = workers, target
        shapes = [
            m.ShapeDemand(queue=one.queue, shape=_filling(one), jobs=wanted[name] + waiting[name])
            for name, one in self._site.slots.items()
            if name in wanted
        ]
        return shapes, sentences, still_open

    def _started_for(self, target: Target, slot: str) -> int:
        """Workers started since a target came; those that the batch system refused do not count."""
        return sum(
            worker.slot == slot and worker.outcome is not Outcome.REJECTED
            for intent in self._store.intents_for(target)
            for worker in self._book.of_intent(intent)
        )

    def _activated(self) -> tuple[list[m.ShapeDemand], list[str]]:
        """Jobs that are activated, by resource type."""
        shapes: list[m.ShapeDemand] = []
        sentences: list[str] = []
        try:
            table = self._server.call("statistics/active_job_detailed_stats_by_site", {})
        except Refused as error:
            # The server may still want to be told of our workers.
            return shapes, [f"how many jobs wait is not known: {error}"]
        for queue in self._queues():
            for kind, jobs in sorted(translate.activated(table, queue).items()):
                if jobs:
                    shape = translate.shape(self._type(kind))
                    shapes.append(m.ShapeDemand(queue=queue, shape=shape, jobs=jobs))
                    sentences.append(f"{jobs} jobs of {kind} are activated in queue {queue}")
        return shapes, sentences

    def _purpose(self, slot: str) -> tuple[str, str]:
        """The label and resource type that workers of a slot are started for: those of the server's
        target, or what their slot is."""
        if (target := self._next.get(slot)) is not None:
            return target.label, target.kind
        shape = self._site.slots.get(slot)
        room = shape.room() if shape else None
        return LABEL, panda.resource_type(room.cores, room.memory_mb) if room else translate.ANY

    def _type(self, kind: str) -> Type:
        return self._types.get(kind) or Type(1, 0)

    def _queues(self) -> list[str]:
        return sorted({slot.queue for slot in self._site.slots.values()})

    # --- reports ----------------------------------------------------------------------------------

    def _send_statistics(self, live: Collection[Worker], still_open: Open) -> None:
        purposes = self._store.purposes()
        for queue in self._queues():
            known = [
                (worker, *purposes.get(worker.intent, (LABEL, translate.ANY)))
                for worker in live
                if worker.queue == queue
            ]
            to_submit = {
                (label, kind): n for (of, label, kind), n in still_open.items() if of == queue
            }
            table = json.dumps(translate.statistics(known, to_submit))
            ask = {"harvester_id": self._id, "panda_queue": queue, "statistics": table}
            self._server.call("harvester/report_worker_statistics", ask)

    def _send_dialog(self, decision: m.SiteDecision, now: float) -> None:
        """Show the last decision on the server's pages."""
        self._dialogs += 1
        line = {
            "diagID": self._dialogs,
            "moduleName": "decide",
            "identifier": f"site={self._site.site}",
            "creationTime": (translate.timestamp(now) or "").removeprefix("datetime/"),
            "messageLevel": "WARNING" if decision.binding in TROUBLES else "INFO",
            "diagMessage": decision.sentence[:500],
        }
        self._server.call("harvester/add_dialogs", {"harvester_id": self._id, "dialogs": [line]})


def _filling(slot: Slot) -> Shape:
    """A job that fills a worker of that slot."""
    room = slot.room()
    return Shape(cores=room.cores, memory_mb=room.memory_mb, disk_mb=room.disk_mb, gpus=room.gpus)
