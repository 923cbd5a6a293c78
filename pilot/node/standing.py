"""A box that stands while many processes of one payload are started in it, on this machine.

Its first process does nothing. The guardian enters the box's namespaces once, gives up what it may
do there, and starts the others at the rate at which it starts any. They share all of the box: its
directory, its /tmp, its processes. When the box ends, all of them do.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from ailurus.protocol.errors import Code
from pilot.blame import GUARDIAN_DIED, OSErrorsOn, Target
from pilot.node.outputs import Outputs
from pilot.node.own_memory import HeldProcess, OwnMemory
from pilot.node.sampler import Sampler
from pilot.node_ports import Finish, Look, Order, Task, TaskOutput
from pilot.ports import Check, Container, Direct, JobError, ProcessEnd, ProcessSpec, Spawner
from pilot.room_ports import Entrance

IDLE = ("/bin/sh", "-c", "echo; while :; do kill -STOP $$; done")
"""What keeps a box standing: a line says that it does."""
STAND_S = 30.0
"""How long a box may take to stand: an image may lie on a slow file system."""
_NAMES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
_OPEN = os.O_RDONLY | os.O_CLOEXEC
_NS_GET_USERNS = 0xB701
_PF_EXITING, _KILLED = 0x4, 1 << (signal.SIGKILL - 1)


class LocalStanding:
    """Processes in the room of a box, or, where nothing stands between, beside the pilot's."""

    def __init__(
        self,
        container: Container,
        order: Order,
        spawner: Spawner,
        sampler: Sampler,
        outputs: Outputs,
        memory: OwnMemory,
        *,
        cgroup: Sequence[int] = (),
    ) -> None:
        """`cgroup`: how processes come into the payload's, as in `ProcessSpec`."""
        self._cgroup, self._memory = cgroup, memory
        self._outputs = outputs
        self._container, self._order = container, order
        self._spawner, self._sampler = spawner, sampler
        self._room = self._box = 0
        self._first = 0
        self._over = threading.Event()

    def stand(self, process: ProcessSpec, check: Check) -> None:
        """Start the box and enter it; `check` is called meanwhile. Raises JobError."""
        line = Path(self._order.box.own, "standing")
        with OSErrorsOn(Target.NODE, "cannot make a box for many processes"), _fifo(line) as ready:
            spec = replace(process, stdout=str(line), tell=True)
            self._box = self._spawner.spawn(spec, lambda _: self._over.set())
            try:
                reaper = _only_child(self._told(ready, self._over, check))
                self._first = _only_child(reaper)
                self._room = _entered(self._spawner, reaper, self._first, process.filter)
            except BaseException:
                self._spawner.signal(self._box, signal.SIGKILL)
                raise
        room = self._room
        self._sampler.started(self._order.name, self, lambda: self._spawner.pid(room))

    def start_all(self, tasks: Sequence[tuple[Task, Callable[[Finish], None]]]) -> Sequence[int]:
        held = [self._held(task) for task, _ in tasks]
        orders = [
            (self._spec(task, one), self._finishing(task, one, done))
            for (task, done), one in zip(tasks, held, strict=True)
        ]
        keys = self._spawner.spawn_all(orders)
        for one, key in zip(held, keys, strict=True):
            if one is not None:
                one.started(key)
        if not self._room:
            for (task, _), key in zip(tasks, keys, strict=True):
                mark = task.environment["AILURUS_ATTEMPT"]
                self._sampler.started(self._order.name, mark, _pid_of(self._spawner, key))
        return keys

    def look(self, wanted: Sequence[Look], told: Callable[[Sequence[TaskOutput]], None]) -> None:
        told([self._outputs.look(one) for one in wanted])

    def signal(self, key: int, number: int) -> None:
        self._spawner.signal(key, number)

    def close(self) -> None:
        if self._room:
            self._sampler.ended(self._order.name, self, 0.0)
        for key in filter(None, (self._room, self._box)):
            self._spawner.signal(key, signal.SIGKILL)
        self._outputs.remove()

    def _held(self, task: Task) -> HeldProcess | None:
        if not task.memory_mb:
            return None
        return self._memory.hold(task.environment["AILURUS_ATTEMPT"], task.memory_mb)

    def _spec(self, task: Task, held: HeldProcess | None) -> ProcessSpec:
        box = self._order.box
        box = replace(box, environment={**box.environment, **task.environment})
        inside = self._container.within(task.argv, box)
        assert isinstance(inside, Direct)  # noqa: S101 - or there would be no such box
        stdout, stderr = self._outputs.paths(task.seat)
        return ProcessSpec(
            argv=inside.argv,
            environment=inside.environment,
            directory=inside.directory,
            stdout=stdout,
            stderr=stderr,
            cpus=task.cpus,
            room=self._room,
            cgroup=held.cgroup if held and held.cgroup else self._cgroup,
        )

    def _finishing(
        self, task: Task, held: HeldProcess | None, done: Callable[[Finish], None]
    ) -> Callable[[ProcessEnd], None]:
        def ended(end: ProcessEnd) -> None:
            if self._room:
                end = self._seen(end)
            else:
                mark = task.environment["AILURUS_ATTEMPT"]
                self._sampler.ended(self._order.name, mark, end.cpu_s)
            failed = bool(end.exit_code or end.errno)
            loss = self._memory.loss(end, held) if failed or held else None
            take = partial(self._outputs.take, task.seat, failed=failed)
            done(Finish(end, take, loss, partial(self._outputs.at_once, task.seat)))

        return ended

    def _seen(self, end: ProcessEnd) -> ProcessEnd:
        """An end as it is to be understood: what could not start, or was killed, because the box
        has ended says nothing of itself. Any process in it may end it, by killing the first."""
        odd = end.errno or end.exit_code == -signal.SIGKILL
        over = odd and (self._over.is_set() or _ends(self._first))
        return replace(end, errno=GUARDIAN_DIED, before=False) if over else end

    def _told(self, ready: int, over: threading.Event, check: Check) -> int:
        """The process id of the box's program, once the box stands. Raises JobError."""
        told = select.poll()
        told.register(ready, select.POLLIN)
        deadline, stands = time.monotonic() + STAND_S, False
        while not over.is_set() and time.monotonic() < deadline:
            check()
            stands = stands or bool(told.poll(50) and os.read(ready, 1))
            if stands and (pid := self._spawner.pid(self._box)):
                return pid
            # Its process id is on its way, or nobody writes any more.
            over.wait(0.002)
        raise JobError(
            Code.CONTAINER_FAILED,
            "a box for many processes did not come to stand",
            field="container",
            remedy="does the image have a /bin/sh? The pilot's log has more",
        )


@contextmanager
def _fifo(path: Path) -> Iterator[int]:
    """A FIFO, and its end for reading."""
    os.mkfifo(path, 0o600)
    try:
        fd = os.open(path, _OPEN | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        path.unlink()


def _entered(spawner: Spawner, reaper: int, first: int, forbidden: bytes) -> int:
    """The room of the box whose reaper, and whose first process, these are. Raises OSError."""
    opened: list[int] = []
    try:
        own = Path("/proc/self/ns/user").stat().st_ino
        opened += (os.open(f"/proc/{first}/ns/{name}", _OPEN) for name in _NAMES)
        # Whoever enters the others must have entered their owner, but no namespace twice.
        owner = fcntl.ioctl(opened[0], _NS_GET_USERNS)
        last = os.open(f"/proc/{first}/ns/user", _OPEN)
        namespaces = [owner, *opened, last]
        opened += [owner, last]
        if os.fstat(owner).st_ino == own:
            namespaces.remove(owner)
        if os.fstat(last).st_ino in (own, os.fstat(owner).st_ino):
            namespaces.remove(last)
        children = os.open(f"/proc/{reaper}/task/{reaper}/children", _OPEN)
        opened.append(children)
        entrance = Entrance(
            namespaces=namespaces,
            reapers=[children],
            spared=[first],
            confined=True,
            filter=forbidden,
        )
        return spawner.enter(entrance, lambda _: None)
    finally:
        for fd in opened:
            with suppress(OSError):
                os.close(fd)


def _only_child(pid: int) -> int:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return int(text.split()[0])


def _ends(pid: int) -> bool:
    """Whether a process has ended, is ending, or has been killed and does not know it yet."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    # Those behind the name, which may hold anything: the third is the first of them.
    fields = line[line.rindex(b")") + 2 :].split()
    flags, pending = int(fields[9 - 3]), int(fields[31 - 3])
    return fields[0] in b"ZX" or bool(flags & _PF_EXITING or pending & _KILLED)


def _pid_of(spawner: Spawner, key: int) -> Callable[[], int | None]:
    return lambda: spawner.pid(key)
