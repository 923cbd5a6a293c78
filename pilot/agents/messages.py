"""What a pilot and its agents say to each other; in this order, then as it comes.

agent → head    Arrived, then Joined or Unfit; Beat; Prepared, ProcessOver, TasksOver, Saw,
                Wrote, Looked, DoorSaid
head → agent    Welcome or TurnedAway; Acknowledged; Prepare, Begin, Stand, StartAll, LookAt,
                CloseBox, Kill, Credit, Clear, WatchPayload, ForgetPayload, OpenDoor, DoorTold,
                CloseDoor; Bye
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import Code
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Resources
from pilot.agents.lease import LeaseTerms
from pilot.node.gpus import Gpu
from pilot.node.topology import Cpu
from pilot.node_ports import Explanation, Look, MemoryLoss, Order, Task, TaskOutput, Written
from pilot.ports import Image, JobError, ProcessEnd
from pilot.rsh.exchange import Said, Told
from pilot.samples import Sample, Sampled
from pilot.site import Site


class Fault(Struct, array_like=True, frozen=True):
    """A JobError on its way."""

    code: Code
    message: str
    remedy: str
    field: str
    transient: bool

    @classmethod
    def of(cls, error: JobError) -> Fault:
        return cls(error.code, error.message, error.remedy, error.field, error.transient)

    def error(self) -> JobError:
        return JobError(
            self.code,
            self.message,
            remedy=self.remedy,
            field=self.field,
            transient=self.transient,
        )


class Explained(Struct, array_like=True, frozen=True):
    """An Explanation on its way."""

    runtime: bool
    ran: bool
    fault: Fault | None
    oom_kills: int
    where: str

    @classmethod
    def of(cls, found: Explanation) -> Explained:
        fault = None if found.error is None else Fault.of(found.error)
        return cls(found.runtime, found.ran, fault, found.oom_kills, found.where)

    def explanation(self) -> Explanation:
        return Explanation(
            runtime=self.runtime,
            ran=self.ran,
            error=None if self.fault is None else self.fault.error(),
            oom_kills=self.oom_kills,
            where=self.where,
        )


class Arrived(Struct, array_like=True, tag=True, frozen=True):
    """An agent is there."""

    names: tuple[str, ...]
    """What its node is called: by the batch system, by itself."""
    version: str


class Welcome(Struct, array_like=True, tag=True, frozen=True):
    """The agent is expected; what it is to know."""

    name: str
    """Of its node."""
    site: Site
    """The parts that concern processes."""
    gpus: int | None
    """How many this node may hand out; None: all."""
    terms: LeaseTerms
    probe: tuple[str, str]
    """A file in the pilot's work directory, and what is in it."""


class TurnedAway(Struct, array_like=True, tag=True, frozen=True):
    why: str


class Joined(Struct, array_like=True, tag=True, frozen=True):
    """The node is ready for payloads."""

    resources: Resources
    cpus: tuple[Cpu, ...]
    gpus: tuple[Gpu, ...]
    scratch: str
    """The agent's directory on its node."""
    hardware: Hardware


class Unfit(Struct, array_like=True, tag=True, frozen=True):
    """The node can run nothing."""

    why: str


class Beat(Struct, array_like=True, tag=True, frozen=True):
    number: int


class Acknowledged(Struct, array_like=True, tag=True, frozen=True):
    number: int


class Prepare(Struct, array_like=True, tag=True, frozen=True):
    """Have the image of a job there."""

    ticket: int
    spec: JobSpec


class Prepared(Struct, array_like=True, tag=True, frozen=True):
    """What came of a Prepare, or of a Stand."""

    ticket: int
    image: Image | None = None
    fault: Fault | None = None


class Begin(Struct, array_like=True, tag=True, frozen=True):
    """Start a process."""

    key: int
    order: Order
    streamed: bool = False


class ProcessOver(Struct, array_like=True, tag=True, frozen=True):
    """A process has ended, and nothing of it is left."""

    key: int
    end: ProcessEnd
    told: Explained | None = None
    """Of a failed one."""


class Stand(Struct, array_like=True, tag=True, frozen=True):
    """Make a standing box, which then has the ticket's number."""

    ticket: int
    order: Order


class StartAll(Struct, array_like=True, tag=True, frozen=True):
    """Start processes in a standing box."""

    box: int
    tasks: list[tuple[int, Task]]
    """Each with its key."""


class TaskOver(Struct, array_like=True, frozen=True):
    """A process in a standing box has ended, and what it wrote."""

    key: int
    end: ProcessEnd
    out: Written
    err: Written
    memory: MemoryLoss | None = None


class TasksOver(Struct, array_like=True, tag=True, frozen=True):
    ends: list[TaskOver]


class LookAt(Struct, array_like=True, tag=True, frozen=True):
    """Tell what processes in a standing box have written by now."""

    box: int
    ticket: int
    wanted: list[Look]


class Saw(Struct, array_like=True, tag=True, frozen=True):
    ticket: int
    outputs: list[TaskOutput]


class CloseBox(Struct, array_like=True, tag=True, frozen=True):
    """End a standing box, and all that runs in it."""

    box: int


class Kill(Struct, array_like=True, tag=True, frozen=True):
    """Send a signal to what a process started."""

    key: int
    number: int


class Wrote(Struct, array_like=True, tag=True, frozen=True):
    """A process wrote to its stdout (1) or stderr (2)."""

    key: int
    stream: int
    data: bytes


class Credit(Struct, array_like=True, tag=True, frozen=True):
    """So many more bytes of a process are taken."""

    key: int
    count: int


class Clear(Struct, array_like=True, tag=True, frozen=True):
    """Remove what an attempt has on the node."""

    name: str


class WatchPayload(Struct, array_like=True, tag=True, frozen=True):
    """Measure a payload."""

    name: str
    sampled: Sampled


class ForgetPayload(Struct, array_like=True, tag=True, frozen=True):
    """Measure it no more."""

    name: str


class Looked(Struct, array_like=True, tag=True, frozen=True):
    """One look at all payloads there."""

    samples: list[Sample]


class OpenDoor(Struct, array_like=True, tag=True, frozen=True):
    """Let the processes of a payload ask for others."""

    door: int
    directory: str


class DoorSaid(Struct, array_like=True, tag=True, frozen=True):
    door: int
    said: Said


class DoorTold(Struct, array_like=True, tag=True, frozen=True):
    door: int
    told: Told


class CloseDoor(Struct, array_like=True, tag=True, frozen=True):
    door: int


class Bye(Struct, array_like=True, tag=True, frozen=True):
    """Kill what runs, remove what was made, and end."""


FromAgent = (
    Arrived | Joined | Unfit | Beat | Prepared | ProcessOver | TasksOver | Saw | Wrote | Looked
    | DoorSaid
)  # fmt: skip
ToAgent = (
    Welcome | TurnedAway | Acknowledged | Prepare | Begin | Stand | StartAll | LookAt
    | CloseBox | Kill | Credit | Clear
    | WatchPayload | ForgetPayload | OpenDoor | DoorTold | CloseDoor | Bye
)  # fmt: skip
from_agent = msgspec.msgpack.Decoder(list[FromAgent]).decode
to_agent = msgspec.msgpack.Decoder(list[ToAgent]).decode
