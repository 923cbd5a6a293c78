"""A node of the allocation, by its agent: what the pilot asks of it, and what came of that."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.agents import messages as a
from pilot.agents.chores import apart
from pilot.agents.wire import Wire
from pilot.blame import GUARDIAN_DIED
from pilot.clock import Clock
from pilot.node_ports import (
    NOTHING,
    DoorHandle,
    Exit,
    Explanation,
    Finish,
    Look,
    Order,
    Output,
    Standing,
    Task,
    TaskOutput,
    Written,
)
from pilot.ports import Check, Container, Image, JobError, ProcessEnd
from pilot.rsh.exchange import Said, Told
from pilot.samples import LocalFiles, Sample, Sampled

STEP_S = 0.5
"""Between two looks whether a job is to stop while its image is fetched."""
TOGETHER, TOGETHER_BYTES = 100, 1 << 20
"""Processes that one message starts, and about how much they may be told in it: between two of them
the agent beats."""
MOST_AHEAD = 32 << 20
"""Bytes that may wait for an agent before more processes are started: their words may be long."""
AHEAD_S = 0.01
"""Between two looks at that."""


class RemoteNode:
    """Asks an agent. What it said counts once, and nothing counts after it was given up."""

    def __init__(
        self,
        name: str,
        address: str,
        container: Container,
        wire: Wire,
        scratch: str,
        clock: Clock,
    ) -> None:
        """`container`: the pilot's own, of the same site, for what it says of jobs."""
        self.name, self.address, self.container = name, address, container
        self._wire, self._scratch, self._clock = wire, scratch, clock
        # Guards what follows.
        self._lock = threading.Lock()
        self._keys = itertools.count(1)
        self._running: dict[int, Callable[[Exit], None]] = {}
        self._outputs: dict[int, Output] = {}
        self._looks: dict[int, Callable[[Sequence[TaskOutput]], None]] = {}
        self._tasks: dict[int, Callable[[Finish], None]] = {}
        self._tickets: dict[int, Callable[[a.Prepared], None]] = {}
        self._doors: dict[int, Callable[[Said], None]] = {}
        self._lost = ""
        self._samples: Sequence[Sample] | None = None
        self._files: dict[str, LocalFiles] = {}

    def stand(self, order: Order, check: Check) -> Standing:
        order = replace(order, spec=_plain(order.spec))
        box = self._asked(lambda ticket: a.Stand(ticket, order), check, self.close_box).ticket
        return _RemoteStanding(self, box)

    def prepare(self, spec: JobSpec, check: Check) -> Image | None:
        if not spec.container:
            return None
        return self._asked(lambda ticket: a.Prepare(ticket, _plain(spec)), check).image

    def _asked(
        self,
        ask: Callable[[int], a.Prepare | a.Stand],
        check: Check,
        withdraw: Callable[[int], None] = lambda _: None,
    ) -> a.Prepared:
        """The agent's answer, unless `check` raises: then the question is withdrawn. Raises
        JobError."""
        answers: list[a.Prepared] = []
        answered = threading.Event()

        def note(answer: a.Prepared) -> None:
            answers.append(answer)
            answered.set()

        ticket = self._ticket(note)
        self._wire.send(ask(ticket))
        try:
            while not self._clock.wait(answered, STEP_S):
                check()
        except BaseException:
            withdraw(ticket)
            raise
        finally:
            with self._lock:
                self._tickets.pop(ticket, None)
        if answers[0].fault is not None:
            raise answers[0].fault.error()
        return answers[0]

    def _ticket(self, note: Callable[[a.Prepared], None]) -> int:
        with self._lock:
            if self._lost:
                raise lost(self.name, self._lost)
            ticket = next(self._keys)
            self._tickets[ticket] = note
            return ticket

    def tmp(self, name: str, shared: str) -> str:
        return f"{self._scratch}/{name}/tmp"  # noqa: S108 - the agent's own

    def start(
        self, order: Order, done: Callable[[Exit], None], output: Output | None = None
    ) -> int:
        with self._lock:
            if self._lost:
                raise lost(self.name, self._lost)
            key = next(self._keys)
            self._running[key] = done
            if output is not None:
                self._outputs[key] = output
        order = replace(order, spec=_plain(order.spec))
        self._wire.send(a.Begin(key, order, output is not None))
        return key

    def start_all(
        self, box: int, tasks: Sequence[tuple[Task, Callable[[Finish], None]]]
    ) -> Sequence[int]:
        """Start processes in a standing box."""
        with self._lock:
            keys = [next(self._keys) for _ in tasks]
            ended = {key: done for key, (_, done) in zip(keys, tasks, strict=True)}
            if not (lost := self._lost):
                self._tasks |= ended
        if lost:
            self._lose(ended)
        else:
            wanted = [(key, task) for key, (task, _) in zip(keys, tasks, strict=True)]
            for part in _parts(wanted):
                while self._wire.backlog > MOST_AHEAD:
                    self._clock.wait(threading.Event(), AHEAD_S)
                self._wire.send(a.StartAll(box, part))
        return keys

    def look(
        self, box: int, wanted: Sequence[Look], told: Callable[[Sequence[TaskOutput]], None]
    ) -> None:
        """Have the outputs of processes in a standing box looked at."""
        with self._lock:
            if self._lost:
                return
            ticket = next(self._keys)
            self._looks[ticket] = told
        self._wire.send(a.LookAt(box, ticket, [*wanted]))

    def close_box(self, box: int) -> None:
        """End a standing box."""
        self._wire.send(a.CloseBox(box))

    def credit(self, key: int, count: int) -> None:
        self._wire.send(a.Credit(key, count))

    def signal(self, key: int, number: int) -> None:
        self._wire.send(a.Kill(key, number))

    def pid(self, key: int) -> int | None:
        return None

    def door(self, directory: str, tell: Callable[[Said], None]) -> DoorHandle:
        with self._lock:
            if self._lost:
                raise lost(self.name, self._lost)
            number = next(self._keys)
            self._doors[number] = tell
        self._wire.send(a.OpenDoor(number, directory))
        return _RemoteDoor(number, self._wire, self._doors)

    def clear(self, name: str) -> None:
        self._wire.send(a.Clear(name))

    def watch(self, name: str, sampled: Sampled) -> None:
        self._wire.send(a.WatchPayload(name, sampled))

    def forget(self, name: str) -> LocalFiles | None:
        """As they were at the last look that came."""
        self._wire.send(a.ForgetPayload(name))
        return self._files.pop(name, None)

    def samples(self, now: float) -> Sequence[Sample] | None:
        samples, self._samples = self._samples, None
        return samples

    # by the loop that hears the agents -----------------------------------------------------------

    def heard(self, message: a.FromAgent) -> None:
        """Hand out what the agent said."""
        if isinstance(message, a.ProcessOver):
            with self._lock:
                done = self._running.pop(message.key, None)
                self._outputs.pop(message.key, None)
            if done is not None:
                # The agent's clock is another one.
                end = replace(message.end, key=message.key, at=self._clock.monotonic())
                found = Explanation() if message.told is None else message.told.explanation()
                done(Exit(end, lambda: found))
        elif isinstance(message, a.TasksOver):
            self._tasks_over(message.ends)
        elif isinstance(message, a.Saw):
            if (told := self._looks.pop(message.ticket, None)) is not None:
                told(message.outputs)
        elif isinstance(message, a.Wrote):
            if (output := self._outputs.get(message.key)) is not None:
                output(message.stream, message.data)
        elif isinstance(message, a.DoorSaid):
            if (tell := self._doors.get(message.door)) is not None:
                tell(message.said)
        elif isinstance(message, a.Looked):
            self._samples = message.samples
            self._files = {one.key: one.local for one in message.samples if one.local is not None}
        elif isinstance(message, a.Prepared):
            with self._lock:
                note = self._tickets.pop(message.ticket, None)
            if note is not None:
                note(message)

    def _tasks_over(self, ends: Sequence[a.TaskOver]) -> None:
        now = self._clock.monotonic()
        with self._lock:
            ended = [(one, self._tasks.pop(one.key, None)) for one in ends]
        for one, done in ended:
            if done is not None:
                end = replace(one.end, key=one.key, at=now)
                done(Finish(end, partial(_both, one.out, one.err), one.memory))

    def lose(self, why: str) -> None:
        """The node is given up: all that ran there has ended, by the node's fault."""
        error = lost(self.name, why)
        with self._lock:
            self._lost = why
            running, self._running = self._running, {}
            tickets, self._tickets = self._tickets, {}
            tasks, self._tasks = self._tasks, {}
            self._looks.clear()
            self._outputs.clear()
            self._doors.clear()
        now = self._clock.monotonic()
        for ticket, note in tickets.items():
            note(a.Prepared(ticket, fault=a.Fault.of(error)))
        for key, done in running.items():
            end = ProcessEnd(key=key, errno=GUARDIAN_DIED, at=now)
            with apart("loss_not_taken", self.name):
                done(Exit(end, partial(Explanation, error=error)))
        self._lose(tasks)

    def _lose(self, tasks: Mapping[int, Callable[[Finish], None]]) -> None:
        now = self._clock.monotonic()
        for key, done in tasks.items():
            end = ProcessEnd(key=key, errno=GUARDIAN_DIED, at=now)
            with apart("loss_not_taken", self.name):
                done(Finish(end, partial(_both, NOTHING, NOTHING)))


class _RemoteDoor:
    """A door on an agent's node."""

    def __init__(self, number: int, wire: Wire, doors: dict[int, Callable[[Said], None]]) -> None:
        self._number, self._wire, self._doors = number, wire, doors

    def answer(self, told: Told) -> None:
        self._wire.send(a.DoorTold(self._number, told))

    def close(self) -> None:
        self._doors.pop(self._number, None)
        self._wire.send(a.CloseDoor(self._number))


class _RemoteStanding:
    """A standing box on an agent's node."""

    def __init__(self, node: RemoteNode, box: int) -> None:
        self._node, self._box = node, box

    def start_all(self, tasks: Sequence[tuple[Task, Callable[[Finish], None]]]) -> Sequence[int]:
        return self._node.start_all(self._box, tasks)

    def look(self, wanted: Sequence[Look], told: Callable[[Sequence[TaskOutput]], None]) -> None:
        self._node.look(self._box, wanted, told)

    def signal(self, key: int, number: int) -> None:
        self._node.signal(key, number)

    def close(self) -> None:
        self._node.close_box(self._box)


def _both(out: Written, err: Written) -> TaskOutput:
    return out, err


def lost(name: str, why: str) -> JobError:
    """The error of payloads on a node that is lost: another attempt may have a better one."""
    return JobError(
        Code.LOST_HEARTBEAT,
        f"the node {name} of the allocation was lost: {why}",
        remedy="the job is tried again elsewhere",
        transient=True,
    )


def _parts(wanted: Sequence[tuple[int, Task]]) -> Iterator[list[tuple[int, Task]]]:
    """Processes, as many as one message starts."""
    part: list[tuple[int, Task]] = []
    size = 0
    for key, task in wanted:
        variables = task.environment
        length = sum(map(len, (*task.argv, *variables, *variables.values())))
        if part and (len(part) == TOGETHER or size + length > TOGETHER_BYTES):
            yield part
            part, size = [], 0
        part.append((key, task))
        size += length
    if part:
        yield part


def _plain(spec: JobSpec) -> JobSpec:
    """What a node is to know of a job: neither its program nor its files."""
    return replace(spec, command="", script="", inputs=(), outputs=(), environment={})
