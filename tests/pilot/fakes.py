"""Small stand-ins for the pilot's ports: time that a test moves, processes that end when it says
so."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Resources, Room
from ailurus.protocol.url import Url
from pilot.attempt import Attempt
from pilot.files.stage import Stage
from pilot.kit import Kit
from pilot.node.local import LocalNode
from pilot.node.sampler import Sampler
from pilot.node.slots import Slots
from pilot.node.supervisor import Supervisor
from pilot.ports import (
    Check,
    Container,
    Copied,
    Direct,
    JobError,
    ProcessEnd,
    ProcessSpec,
    Sandbox,
    Spawner,
)
from pilot.process.proc import Io, Mapped, Process
from pilot.process.signals import NUDGE
from pilot.process.usage import Nameless, NodeUse
from pilot.room_ports import Entrance
from pilot.site import Limits, Storage, bounds_of
from pilot.upstream.delegated import Delegation
from pilot.upstream.leases import Leases
from pilot.upstream.reporter import Reporter
from pilot.upstream.spool import Begun, Spool


class FakeClock:
    """Stands still until it is moved; waiting moves it to the end of the wait."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.waits: list[float | None] = []
        self.while_waiting: Callable[[], object] = lambda: None

    def forward(self, seconds: float) -> None:
        self.now += seconds

    def time(self) -> float:
        return 1_700_000_000.0 + self.now

    def monotonic(self) -> float:
        return self.now

    def cpu_s(self) -> float:
        return 0.0

    def wait(self, waited_for: Any, seconds: float | None = None) -> bool:
        """Let `while_waiting` happen, then the rest of the wait. Without a limit an event is waited
        for, as threads of jobs do; it must come."""
        self.waits.append(seconds)
        self.while_waiting()
        if seconds is None and isinstance(waited_for, threading.Event):
            assert waited_for.wait(10), "waited in vain"
            return True
        if waited_for.wait(0):
            return True
        self.forward(seconds or 0.0)
        return False

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.forward(seconds)


Program = Callable[[ProcessSpec], ProcessEnd | None]
"""What a payload does as it starts; one that returns nothing runs on until the test ends it."""


class FakeSpawner:
    def __init__(self, program: Program = lambda spec: None) -> None:
        self.program = program
        self.started: list[ProcessSpec] = []
        self.signals: list[tuple[int, int]] = []
        self._done: dict[int, Callable[[ProcessEnd], None]] = {}

    def spawn(self, order: ProcessSpec, done: Callable[[ProcessEnd], None]) -> int:
        self.started.append(order)
        key = len(self.started)
        if (end := self.program(order)) is not None:
            done(end)
        else:
            self._done[key] = done
        return key

    def end(self, end: ProcessEnd) -> None:
        self._done.pop(end.key)(end)

    def spawn_all(
        self, orders: Sequence[tuple[ProcessSpec, Callable[[ProcessEnd], None]]]
    ) -> list[int]:
        return [self.spawn(order, done) for order, done in orders]

    def enter(self, entrance: Entrance, done: Callable[[ProcessEnd], None]) -> int:
        raise NotImplementedError

    def signal(self, key: int, number: int) -> None:
        self.signals.append((key, number))

    def pid(self, key: int) -> int | None:
        return 100 + key


class Started(NamedTuple):
    """A process that is all of an attempt's payload."""

    where: LocalNode | Spawner
    key: int

    def signal(self, number: int) -> None:
        self.where.signal(self.key, number)


class FakeContainer(Container):
    """Nothing stands between. `refusal`: why it runs no job."""

    name, private, depth, status_fd = "fake", True, 0, 0

    def __init__(self) -> None:
        self.refusal: JobError | None = None

    def ran(self, status: str) -> bool:
        return True

    def tmp(self, directory: str) -> str:
        return directory

    def accepts(self, spec: JobSpec) -> None:
        if self.refusal is not None:
            raise self.refusal

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Direct:
        return Direct(argv=argv, environment=box.environment, directory=box.directory)


class FakeTransfer:
    """A storage in memory. `failures`: what the next calls raise; None lets one pass."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.calls: list[str] = []
        self.failures: deque[Exception | None] = deque()
        self.forbidden: set[str] = set()
        self.copied: Copied | None = None
        self.on_call: Callable[[Check], None] = lambda check: check()

    def _call(self, name: str, check: Check = lambda: None) -> None:
        self.calls.append(name)
        self.on_call(check)
        if self.failures and (failure := self.failures.popleft()) is not None:
            raise failure

    def allowed(self, url: Url) -> None:
        if url.text in self.forbidden:
            raise JobError(Code.STORAGE_FORBIDDEN, "not here")

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        os.write(into, self.files[url.text])
        self._call(f"get {url.text}", check)
        return self.copied or Copied(size=len(self.files[url.text]), adler32="1", md5="2")

    def put(self, source: int, url: Url, check: Check) -> Copied:
        self._call(f"put {url.text}", check)
        self.files[url.text] = data = os.read(source, 1 << 20)
        return Copied(size=len(data), adler32="1")

    def delete(self, url: Url) -> None:
        self._call(f"delete {url.text}")
        self.files.pop(url.text, None)


class FakeReadings:
    """Readings that a test sets."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self.io: dict[int, Io] = {}
        self.pss: Mapped | None = None
        self.shmem_kb = self.dev_shm_kb = 0
        self.files = Nameless(0, 0)
        self.node = NodeUse(0, 0)
        self.searches = 0

    def scan(self) -> Mapping[int, Process]:
        return self.processes

    def io_of(self, pid: int) -> Io | None:
        return self.io.get(pid)

    def pss_kb(self, pids: Iterable[int]) -> Mapped | None:
        return self.pss

    def rss_shmem_kb(self, pids: Iterable[int]) -> int:
        return self.shmem_kb

    def shared_memory_kb(self, pid: int) -> int:
        return self.dev_shm_kb

    def nameless(self, pids: Iterable[int], device: int) -> Nameless:
        self.searches += 1
        return self.files

    def node_use(self, directory: str) -> NodeUse:
        return self.node


class FakeLink:
    """A dispatcher: `answers` gives for each request what is answered, or raised; the default
    accepts."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {}
        self.registered = m.Registered(worker_id=1, token="t", heartbeat_s=10.0, lease_s=30.0)
        self.client = self.reports = self

    def call(self, name: str, request: Any, *, answer: type, **_: object) -> Any:
        self.requests.append((name, request))
        given = self.answers.get(name, default_answer)
        if isinstance(given, deque):
            given = given.popleft() if given else default_answer
        if callable(given) and not isinstance(given, type):
            given = given(name, request)
        if isinstance(given, Exception):
            raise given
        return given

    def sent(self, name: str) -> list[Any]:
        """The requests of this name."""
        return [request for one, request in self.requests if one == name]


def assignment(job_id: int, **fields: Any) -> m.Assignment:
    """A job of a second's work, as a dispatcher gives it."""
    spec = JobSpec(**{"name": "job", "command": "true", "memory_mb": 1000, **fields})
    return m.Assignment(job_id=job_id, attempt_nr=1, report_key="k", spec=spec)


def default_answer(name: str, request: Any) -> Any:
    if name == "beat":
        return m.BeatAnswer(heartbeat_s=10.0)
    if name == "acquire":
        return m.Acquired(jobs=())
    if name == "report":
        return m.ReportVerdicts(verdicts=tuple(verdict(one, "accepted") for one in request.reports))
    return m.Done()


def verdict(report: m.Report, word: str, seal: str = "") -> m.ReportVerdict:
    return m.ReportVerdict(
        job_id=report.job_id, attempt_nr=report.attempt_nr, verdict=word, seal=seal
    )


class FakeService:
    """A service that notes what the reporter asks of it."""

    def __init__(self) -> None:
        self.drained: list[str] = []
        self.settled = 0

    def room(self) -> Room:
        return Room(cores=1, memory_mb=1000, disk_mb=1000)

    def occupancy(self) -> m.Occupancy:
        return m.Occupancy(busy_core_s=1.0)

    def drain(self, why: str) -> None:
        self.drained.append(why)

    def reports_settled(self) -> None:
        self.settled += 1


class FakeSignals:
    """Signals that a test sends, one for each wait; after them every wait runs out."""

    def __init__(self, clock: FakeClock, numbers: Sequence[int] = ()) -> None:
        self.numbers, self._clock = deque(numbers), clock
        self.nudges = self.waits = 0

    def wait(self, seconds: float) -> int | None:
        self.waits += 1
        assert self.waits < 1000, "it looks and looks"
        if self.numbers:
            return self.numbers.popleft()
        self._clock.forward(seconds)
        return NUDGE if self.nudges else None

    def nudge(self) -> None:
        self.nudges += 1


class World:
    """A kit of real parts on these stand-ins. Nothing of it has a thread."""

    def __init__(
        self,
        directory: Path,
        program: Program = lambda spec: ProcessEnd(key=1),
        clock: Any = None,
    ) -> None:
        self.directory = directory / "pilot"
        self.directory.mkdir()
        self.clock, self.service = clock or FakeClock(), FakeService()
        self.spawner, self.container = FakeSpawner(program), FakeContainer()
        self.storage, self.readings, self.link = FakeTransfer(), FakeReadings(), FakeLink()
        sampler = Sampler(self.clock, self.readings)
        self.node = LocalNode(self.container, self.spawner, sampler)
        self.spool = Spool(directory / "spool", "me")
        self.kit = self.kit_with(Limits())

    def kit_with(
        self,
        limits: Limits,
        logs: str = "failed",
        default: str = "file:///out",
        storage: Mapping[str, Any] = MappingProxyType({}),
    ) -> Kit:
        """The same parts at a site with these limits and this storage."""
        bounds = bounds_of(limits, Storage(**{"outage_tolerance": 0, **storage}))
        stage = Stage(
            lambda scheme: self.storage, default, bounds, Storage(logs=logs), clock=self.clock
        )
        link: Any = self.link
        return Kit(
            host="node",
            clock=self.clock,
            directory=self.directory,
            node=self.node,
            nodes={"": self.node},
            stage=stage,
            slots=Slots(Resources(cores=4, memory_mb=9000, disk_mb=9000), clock=self.clock),
            supervisor=Supervisor(bounds, {"": self.node}, self.clock),
            delegation=Delegation(link, self.clock),
            leases=Leases(link),
            reporter=Reporter(link, stage.delete, grace_s=1.0, clock=self.clock),
            journal=self.spool.own,
        )

    def attempt(self, command: str = "true", **fields: Any) -> Attempt:
        """An attempt of job 1, which the reporter and the journal know."""
        fields.setdefault("name", "job")
        spec = JobSpec(command=command, **fields)
        given = m.Assignment(job_id=1, attempt_nr=1, report_key="k", spec=spec)
        made = Attempt(given, lambda attempt: None, clock=self.clock)
        self.kit.reporter.add(made)
        return made

    def reports(self) -> list[m.Report]:
        """The reports that are safe on disk."""
        return [owed.report for owed in self.spool.own.owed()]

    def turn(self) -> list[str]:
        """One turn of the reporter, and of the cleaner; the names of its requests."""
        before = len(self.link.requests)
        self.kit.reporter.turn(self.service)
        self.kit.reporter.cleaner.turn()
        return [name for name, _ in self.link.requests[before:]]

    def owe(self, job_id: int = 1, *, seal: str = "", adopted: bool = False) -> m.Report:
        """Let the reporter owe a report, which is on disk."""
        url = f"file:///out/{job_id}.1.o"
        file = m.DoneFile(name="o", url=url, size=1, adler32="00000001")
        report = m.Report(
            job_id=job_id, attempt_nr=1, report_key="k", finished=True, files=(file,), ended=1.0
        )
        begun = Begun(job_id=job_id, attempt_nr=1, report_key="k", seal=seal)
        self.spool.own.begin([begun])
        self.spool.own.keep(report)
        self.kit.reporter.owe(report, self.spool.own, seal=seal, adopted=adopted)
        return report
