"""A Harvester instance, as the edge's `Client.call` is: the same names, asks and answers, said to a PanDA
server (docs/decisions/0180).

A PanDA server gives no leases of sites, vouches for no worker and does not tell which pilots live. What it
lacks is made up for here or left to the batch system's word; nothing is sent but what Harvester sends.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec

from ailurus import __version__
from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol import panda
from ailurus.protocol.job import Shape
from ailurus.protocol.units import duration_s
from ailurus.protocol.worker import Outcome
from ailurus.wire.client import Refused
from harvester_edge.book import Book
from harvester_edge.decide import TROUBLES
from harvester_edge.evidence import Worker
from harvester_edge.panda import words
from harvester_edge.panda.line import Line
from harvester_edge.panda.store import Store
from harvester_edge.panda.words import Type, Wish
from harvester_edge.site import PandaPart, Site, Slot

A = TypeVar("A", bound=msgspec.Struct)
HEARTBEAT_S = 600.0
STATISTICS_S = 300.0
TYPES_S = 3600.0
COMMANDS = 20  # a request
WORKERS = 100  # a request
LABEL = "managed"


class Told(m.Demand):
    """Demand, with what the server said."""

    said: tuple[str, ...] = ()


class Instance:
    """One edge to one PanDA server."""

    def __init__(
        self,
        site: Site,
        part: PandaPart,
        line: Line,
        book: Book,
        live: Callable[[], Collection[Worker]],
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        """`live`: the workers that have not ended."""
        self._site, self._part, self._line, self._book = site, part, line, book
        self._live, self._clock, self._log = live, clock, log
        self._id = part.harvester_id
        self._host = socket.gethostname()
        self._store = Store(site.state / "panda.sqlite")
        self._started = False
        self._reported = 0.0  # when statistics last went out
        self._dialogs = 0
        self._types: dict[str, Type] = {}
        self._typed = 0.0
        self._condemned = self._store.condemned()
        self._next: dict[str, Wish] = {}  # for what the next order of a slot is

    def call(self, name: str, ask: Any, *, answer: type[A], **_: object) -> A:
        """As `Client.call`, for the routes that an edge uses. Raises Unreachable or Refused."""
        return cast(A, getattr(self, f"_{name}")(ask))

    @property
    def condemned(self) -> frozenset[tuple[str, int]]:
        """Workers that the server wants dead."""
        return self._condemned

    def numbers(self, count: int) -> range:
        """New numbers of workers."""
        return self._store.numbers(count)

    # --- the routes ----------------------------------------------------------------------------------

    def _hello(self, ask: m.Hello) -> m.Welcome:
        """Say that we live. The site is ours as long as nobody else uses our name: PanDA gives no leases."""
        now = self._clock()
        data: dict[str, Any] = {}
        if not self._started:
            data = {
                "startTime": words.moment(now),
                "sw_version": f"ailurus-{__version__}",
                "commit_stamp": "",
            }
            if self._part.run_mode == "slave":
                data["commands"] = [
                    {"command": command, "computingSite": queue, "resourceType": words.ANY}
                    for queue in self._queues()
                    for command in (words.STATISTICS, words.START)
                ]
        try:
            self._line.ask("harvester/heartbeat", {"harvester_id": self._id, "data": data})
        except Refused:  # an instance that it has not known before; it knows it now
            self._line.ask("harvester/heartbeat", {"harvester_id": self._id, "data": data})
        if self._store.last() is None:
            last = self._line.ask("harvester/get_current_worker_id", {"harvester_id": self._id})
            self._store.begin(panda.number(last) or 0)
        if not self._started:
            self._log.info("harvester_started", harvester_id=self._id, url=self._line.url)
        self._started = True
        keep = now - duration_s(self._site.policy.keep)
        self._store.forget(keep, [worker.intent for worker in self._live()])
        return m.Welcome(epoch=1, lease_s=3 * HEARTBEAT_S)

    def _demand(self, ask: m.DemandRequest) -> Told:
        now = self._clock()
        live = self._live()
        if now - self._typed > TYPES_S:
            listed = self._line.ask("metaconfig/get_resource_types", {}) or []
            self._types, self._typed = words.types(listed, self._part.mcore), now
        asked_for_statistics = self._obey(live, now)
        if self._part.run_mode == "slave":
            shapes, said, open_wishes = self._wished(live)
        else:
            shapes, said, open_wishes = (*self._waiting(), {})
        if asked_for_statistics or now - self._reported > STATISTICS_S:
            self._report(live, open_wishes)
            self._reported = now
        if ask.word is not None:
            self._dialog(ask.word, now)
        return Told(shapes=tuple(shapes), workers=(), said=tuple(said))

    def _intent(self, ask: m.NewIntent) -> m.Bootstraps:
        """Numbers instead of tokens: nobody registers."""
        worker = self._book.get(ask.intent, 0)
        slot = worker.slot if worker else ""
        label, kind = self._kind(slot)
        self._store.enlist(ask.intent, label, kind, self._clock())
        return m.Bootstraps(tokens=tuple(map(str, self._store.numbers(ask.count))))

    def _workers_news(self, ask: m.WorkerObservations) -> m.Done:
        kinds = self._store.kinds()
        workers = [self._book.get(one.intent, one.index) for one in ask.workers]
        news = [
            words.told(
                worker,
                self._site.slots.get(worker.slot),
                *kinds.get(worker.intent) or self._kind(worker.slot),
                self._host,
            )
            for worker in workers
            if worker is not None and worker.worker_id and words.status(worker) is not None
        ]
        for at in range(0, len(news), WORKERS):
            part = news[at : at + WORKERS]
            self._line.ask("harvester/update_workers", {"harvester_id": self._id, "workers": part})
        return m.Done()

    # --- what the server wants -----------------------------------------------------------------------

    def _obey(self, live: Collection[Worker], now: float) -> bool:
        """Take commands, write down what they want, then say that they were taken. Whether one of them
        asks for statistics."""
        statistics, ids = False, []
        most = {"harvester_id": self._id, "n_commands": COMMANDS}
        for one in self._line.ask("harvester/acquire_commands", most) or []:
            name, _, queue = str(one.get("command")).partition(":")
            params = one.get("params")
            if name == words.START:
                self._store.wish(words.wishes(queue, params, now))
            elif name == words.STATISTICS:
                statistics = True
            elif name in (words.KILL, words.SYNC_KILL):
                among = words.named if name == words.SYNC_KILL else self._meant
                doomed = [worker.key for worker in among(params, live)]
                self._store.condemn(doomed, now)
                self._condemned = self._store.condemned()
                self._log.info("workers_condemned", command=name, workers=len(doomed))
            else:
                self._log.warning("command_not_known", command=str(one.get("command"))[:200])
            if panda.number(one.get("ack_requested")):
                ids.append(one.get("command_id"))
        if ids:
            self._line.ask("harvester/acknowledge_commands", {"command_ids": ids})
        return statistics

    def _meant(self, params: Any, live: Iterable[Worker]) -> Iterable[Worker]:
        return words.condemned(params, live, self._host)

    def _wished(
        self, live: Collection[Worker]
    ) -> tuple[list[m.ShapeDemand], list[str], dict[tuple[str, str, str], int]]:
        """What is still open of the server's wishes: as jobs that fill a worker each, beyond those that
        the workers on their way will take. Of wishes for one slot the largest, for an order is of one
        resource type; the others' turns come."""
        waiting = Counter(worker.slot for worker in live if worker.waits)
        wanted: dict[str, int] = {}
        said, left = [], {}
        self._next = {}
        for wish in self._store.wishes():
            kind = None if wish.kind == words.ANY else self._type(wish.kind)
            found = words.slot_for(self._site, wish.queue, kind)
            if found is None:
                if wish.pilots and wish.queue in self._queues():
                    said.append(f"no slot of queue {wish.queue} holds a pilot of {wish.kind}")
                continue
            slot, each = found
            rest = max(0, wish.pilots - each * self._begun(wish, slot))
            if wish.pilots:
                said.append(
                    f"the server asked for {wish.pilots} pilots of {wish.kind} ({wish.label}) in "
                    f"queue {wish.queue}, of which {rest} are still to be started"
                )
            left[wish.queue, wish.label, wish.kind] = rest
            if (workers := -(-rest // each)) > wanted.get(slot, 0):
                wanted[slot], self._next[slot] = workers, wish
        shapes = [
            m.ShapeDemand(queue=one.queue, shape=_whole(one), jobs=wanted[name] + waiting[name])
            for name, one in self._site.slots.items()
            if name in wanted
        ]
        return shapes, said, left

    def _begun(self, wish: Wish, slot: str) -> int:
        """Workers that a wish has had; those that the batch system refused are none."""
        return sum(
            worker.slot == slot and worker.outcome is not Outcome.REJECTED
            for intent in self._store.begun(wish)
            for worker in self._book.of_intent(intent)
        )

    def _waiting(self) -> tuple[list[m.ShapeDemand], list[str]]:
        """Jobs that are activated, by resource type."""
        shapes: list[m.ShapeDemand] = []
        said: list[str] = []
        try:
            table = self._line.ask("statistics/active_job_detailed_stats_by_site", {})
        except Refused as error:  # it may still want to hear of our workers
            return shapes, [f"how many jobs wait is not known: {error}"]
        for queue in self._queues():
            for kind, jobs in sorted(words.activated(table, queue).items()):
                if jobs:
                    shape = words.shape(self._type(kind))
                    shapes.append(m.ShapeDemand(queue=queue, shape=shape, jobs=jobs))
                    said.append(f"{jobs} jobs of {kind} are activated in queue {queue}")
        return shapes, said

    def _kind(self, slot: str) -> tuple[str, str]:
        """Label and resource type that workers of a slot are started for: what the server wants of them,
        or what they are."""
        if (wish := self._next.get(slot)) is not None:
            return wish.label, wish.kind
        shape = self._site.slots.get(slot)
        room = shape.room() if shape else None
        return LABEL, panda.resource_type(room.cores, room.memory_mb) if room else words.ANY

    def _type(self, kind: str) -> Type:
        return self._types.get(kind) or Type(1, 0)

    def _queues(self) -> list[str]:
        return sorted({slot.queue for slot in self._site.slots.values()})

    # --- what it is told -----------------------------------------------------------------------------

    def _report(self, live: Collection[Worker], left: Mapping[tuple[str, str, str], int]) -> None:
        kinds = self._store.kinds()
        for queue in self._queues():
            known = [
                (worker, *kinds.get(worker.intent, (LABEL, words.ANY)))
                for worker in live
                if worker.queue == queue
            ]
            wanted = {(label, kind): n for (of, label, kind), n in left.items() if of == queue}
            table = json.dumps(words.statistics(known, wanted))
            ask = {"harvester_id": self._id, "panda_queue": queue, "statistics": table}
            self._line.ask("harvester/report_worker_statistics", ask)

    def _dialog(self, word: m.SiteDecision, now: float) -> None:
        """The decision, for those who look at the server's pages for the reason."""
        self._dialogs += 1
        line = {
            "diagID": self._dialogs,
            "moduleName": "decide",
            "identifier": f"site={self._site.site}",
            "creationTime": (words.moment(now) or "").removeprefix("datetime/"),
            "messageLevel": "WARNING" if word.binding in TROUBLES else "INFO",
            "diagMessage": word.sentence[:500],
        }
        self._line.ask("harvester/add_dialogs", {"harvester_id": self._id, "dialogs": [line]})


def _whole(slot: Slot) -> Shape:
    """A job that fills a worker of that slot."""
    room = slot.room()
    return Shape(cores=room.cores, memory_mb=room.memory_mb, disk_mb=room.disk_mb, gpus=room.gpus)
