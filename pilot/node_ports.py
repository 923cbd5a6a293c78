"""The ports of nodes: what runs processes on one of them, and what tells which ones there are.

A pilot has one node, its own machine, or all those of an allocation: then an agent on each does
what the pilot asks, and this port hides where a process runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from ailurus.protocol.job import JobSpec
from pilot.ports import Check, Container, Image, JobError, ProcessEnd, Sandbox
from pilot.samples import LocalFiles, Sample, Sampled


class Order(Struct, frozen=True, kw_only=True):
    """A process of a payload that a node is to start in a container of its own making."""

    name: str
    """Of the attempt: by it the node's guardian knows what belongs together."""
    spec: JobSpec
    """What the container is chosen by."""
    argv: Sequence[str]
    box: Sandbox
    stdout: str = "/dev/null"
    stderr: str = "/dev/null"
    cpus: Sequence[int] = ()
    """CPUs to run on; empty: those of the pilot."""
    memory_mb: int = 0
    """What this process may have of its payload's memory; 0: all of it."""


class MemoryLoss(NamedTuple):
    """That a process was ended, or something below it, since there was no memory for it."""

    used_kb: int
    """What it had when the sampler saw it above its own limit; 0: the kernel was faster."""
    kills: int = 0
    """How many processes the kernel killed."""
    own: bool = True
    """It was at its own limit, and not at its payload's."""


class Explanation(Struct, frozen=True, kw_only=True):
    """What a node knows of a process that failed there."""

    runtime: bool = False
    """A container's program was started, not the payload itself."""
    ran: bool = True
    """Whether the payload ran, as the container tells."""
    error: JobError | None = None
    """Why it did not, where the container can find out."""
    oom_kills: int = 0
    """How many processes the kernel killed for memory while it ran."""
    where: str = ""
    """Where those were counted."""


class Exit(NamedTuple):
    """The end of a process on its node."""

    process: ProcessEnd
    explain: Callable[[], Explanation]
    """For a process that failed: it may take seconds to find out, so not in the caller of
    `done`."""
    memory: MemoryLoss | None = None
    """Of one that failed and has a limit of its own."""


Output = Callable[[int, bytes], None]
"""Takes what a process writes: to its stdout (1) or stderr (2)."""
WINDOW = 64 << 10
"""Bytes of output that are on their way at most."""


class Written(NamedTuple):
    """What a process in a standing box wrote to a stream."""

    data: bytes
    """The end of it."""
    size: int
    """Bytes in all."""


NOTHING = Written(b"", 0)
TaskOutput = tuple[Written, Written]
"""stdout, stderr."""
SILENT: TaskOutput = (NOTHING, NOTHING)


class Finish(NamedTuple):
    """The end of a process in a standing box."""

    process: ProcessEnd
    take: Callable[[], TaskOutput]
    """What it wrote. To be called once, by one thread for all of a box, and before another process
    gets its seat."""
    memory: MemoryLoss | None = None
    """Of one that failed."""
    at_once: Callable[[], TaskOutput | None] = lambda: None
    """As `take`, where that is sure to take no time; None: it is to be taken."""


class Task(NamedTuple):
    """A process in a standing box."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    """What it has beside the variables of its box. Its `AILURUS_ATTEMPT` is its alone."""
    seat: int
    """Where its output goes; no other that runs in the box has the same."""
    cpus: Sequence[int] = ()
    memory_mb: int = 0
    """As in `Order`."""


class Look(NamedTuple):
    """What is wanted of the output of a process in a standing box while it runs."""

    seat: int
    starts: tuple[int, int]
    """From which byte of stdout and of stderr on."""


class Standing(Protocol):
    """What starts many processes of a payload on one node: in a box that stands for all of them,
    where they are apart by nothing but their names, or where there can be none, in one each."""

    def start_all(self, tasks: Sequence[tuple[Task, Callable[[Finish], None]]]) -> Sequence[int]:
        """Start them and return their keys. `done` is called once for each, from any thread, when
        it has ended and nothing of it is left. Those of a node that is lost end at once, as by a
        guardian that died."""

    def look(self, wanted: Sequence[Look], told: Callable[[Sequence[TaskOutput]], None]) -> None:
        """Read what has been written, a little of each. `told` is called once with what was found,
        in this order and from any thread; never, where the node is lost."""

    def signal(self, key: int, number: int) -> None:
        """Send a signal to what a process started; KILL ends all of it."""

    def close(self) -> None:
        """End it, and all that runs in it."""


class Sampling(Protocol):
    """What measures payloads on one machine. Any thread may call its methods."""

    name: str
    """As slots call the machine."""

    def watch(self, name: str, sampled: Sampled) -> None:
        """Measure all that is started for the payload `name`, until `forget`."""

    def forget(self, name: str) -> LocalFiles | None:
        """Measure it no more; what it left in its node-local directories."""

    def samples(self, now: float) -> Sequence[Sample] | None:
        """Of all payloads that run there, at one look; None: there was none since the last
        call."""


class DoorHandle(Protocol):
    """The door of a payload on one node."""

    def answer(self, told: Any) -> None:
        """Pass on what came of a request."""

    def close(self) -> None:
        """Serve the payload no more."""


class Node(Sampling, Protocol):
    """One machine, and the processes of payloads on it. Any thread may call its methods."""

    address: str
    """Where the other nodes of the allocation reach it; empty for a pilot's only one."""
    container: Container
    """Which runtimes it has for jobs, and what they are called."""

    def prepare(self, spec: JobSpec, check: Check) -> Image | None:
        """Have the image of a job there, as `Container.prepare`. Raises JobError."""

    def tmp(self, name: str, shared: str) -> str:
        """The directory that is /tmp for the payload of an attempt there: on the node itself, or
        the attempt's own, `shared` by all nodes."""

    def start(
        self, order: Order, done: Callable[[Exit], None], output: Output | None = None
    ) -> int:
        """Start a process and return its key on this node. `done` is called once, from another
        thread, when it has ended and nothing of it is left. Raises JobError for a box that cannot
        be made.

        With `output` its streams go there instead of to files, in order and from one thread, and
        before `done`: `WINDOW` bytes of both together, and as much more as `credit` gives back.
        What is left when the process has ended comes in any case."""

    def stand(self, order: Order, check: Check) -> Standing:
        """What starts many processes of a payload there. Of `order`, the program and its outputs do
        not count. `check` is called now and then, and what it raises ends the wait. Raises
        JobError."""

    def credit(self, key: int, count: int) -> None:
        """`count` more bytes of its output are taken."""

    def signal(self, key: int, number: int) -> None:
        """Send a signal to what the process started; KILL ends all of it."""

    def door(self, directory: str, tell: Callable[[Any], None]) -> DoorHandle:
        """Let the processes of a payload that sees `directory`, which is made there, ask for others
        (`doors.py`, `rsh.py`). `tell` hears what they say, in order and from one thread. Raises
        JobError."""

    def clear(self, name: str) -> None:
        """Remove what an attempt that is over has on the node."""

    def pid(self, key: int) -> int | None:
        """Its process id on this machine while it runs; None also where it runs elsewhere."""


class Share(Struct, frozen=True, kw_only=True):
    """What the batch system gave of one node. None: it does not say how much; then what the machine
    shows counts, which is a bound in any case."""

    name: str
    """Unique in the allocation."""
    address: str
    """Where its other nodes reach it."""
    cores: int | None = None
    memory_mb: int | None = None
    gpus: int | None = None


class Starter(Struct, frozen=True, kw_only=True):
    """A command that starts a program once on each of some nodes, and ends when it has ended on
    all."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    """All that it needs, as the batch system's own variables."""
    nodes: Sequence[str]


class Allocation(Protocol):
    """The nodes that the batch system gave to this job, never more than that."""

    def nodes(self) -> Sequence[Share]:
        """All of them, the one that this process runs on first. Raises AilurusError if the batch
        system's answer is not understood."""

    def seconds_left(self) -> float | None:
        """Until the batch system ends the job; None: it does not say."""

    def starters(
        self, argv: Sequence[str], nodes: Sequence[str], *, apart: bool = False
    ) -> Sequence[Starter]:
        """How `argv` is started on `nodes`; `apart`: by a command for each, as one node that is not
        to be reached may keep a command for several from starting any. What a starter's exit code
        says is no evidence of anything."""


class JobNode(Struct, frozen=True, kw_only=True):
    """A node of a job, and its share there. A job's first node is where its first process runs."""

    name: str
    """What `pilot-rsh` calls it; empty: the job's only one."""
    address: str
    cores: int
    memory_mb: int
    gpus: int = 0


class Program(Struct, frozen=True, kw_only=True):
    """What a launcher starts."""

    argv: Sequence[str]
    """The job's own command."""
    executable: str = ""
    """The program that it comes to, as the job's PATH finds it; empty: only its shell knows."""
    nodes: Sequence[JobNode]
    directory: str
    """Where the plan's files come: all of the job's nodes have it, by this name."""
    mark: str
    """Unique to this attempt: for names and ports that neighbours must not share."""


class Elastic(Struct, frozen=True, kw_only=True):
    """A job that goes on without some of its nodes, and takes others while it runs."""

    least: int
    """Nodes. With fewer, or without its first, it ends."""
    most: int
    listed: str
    """The name of the plan's file that says which nodes there are: on each line the name of one,
    and a number that is another one when a node that was lost has come again."""


class Plan(Struct, frozen=True, kw_only=True):
    """What a launcher makes of a job: one process on its first node, which starts all others by
    `pilot-rsh`."""

    argv: Sequence[str]
    environment: Mapping[str, str] = {}
    """Of all processes, those of other nodes too; what the job says itself comes first."""
    files: Mapping[str, str] = {}
    """By name, texts that come into its directory."""
    elastic: Elastic | None = None
    """None: the loss of any of its nodes ends it."""


class Launcher(Protocol):
    """How the processes of a job are started. Made with its own `Options`, a frozen Struct that the
    job's `launcher_options` fill. Pure: what a node has is asked by what the plan starts there.

    It may have a text `FOUND`, for `pilot --probe`: a script for any /bin/sh, run where jobs run,
    that tells in a few seconds what it found there, a line `WHAT<tab>COMMAND` each."""

    def plan(self, job: Program) -> Plan:
        """What to start. Raises JobError for a job that this launcher cannot start."""
