"""A payload: processes on the nodes of its placement, started, signalled and ended as one.

The first process is what the job runs; it may have others started on any of its nodes. When the
first ends, so do all others, and the payload is over when nothing of it is left on any node. That a
node is lost is known by whoever gave the slots: it stops the attempt, unless the payload goes on
with the others (`elastic.py`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.node_ports import Exit, Node, Order, Output
from pilot.ports import JobError, Sandbox


class Part(NamedTuple):
    """A payload's place on one node."""

    node: Node
    box: Sandbox
    cpus: Sequence[int] = ()


class PayloadProcess:
    """One process of a payload."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.key = 0
        """On its node; 0 until it is started."""

    def signal(self, number: int) -> None:
        if self.key:
            self._node.signal(self.key, number)

    def credit(self, count: int) -> None:
        """`count` more bytes of its output are taken."""
        if self.key:
            self._node.credit(self.key, count)


class Payload:
    """The processes of one attempt. Any thread may call its methods."""

    def __init__(self, name: str, spec: JobSpec, parts: Sequence[Part]) -> None:
        """`parts`: one a node, the first for the first process."""
        self._name, self._spec = name, spec
        self._parts = tuple(parts)
        self._lock = threading.Lock()
        self._running: set[PayloadProcess] = set()
        self._ending = False
        self.exit: Exit | None = None
        """Of the first process, once it has ended."""
        self.over = threading.Event()
        """Nothing of the payload runs any more, and nothing will."""

    def begin(self, argv: Sequence[str], stdout: str, stderr: str) -> None:
        """Start the first process. Raises JobError."""
        part = self._parts[0]
        process = PayloadProcess(part.node)
        self._running.add(process)
        order = Order(
            name=self._name,
            spec=self._spec,
            argv=argv,
            box=part.box,
            stdout=stdout,
            stderr=stderr,
            cpus=part.cpus,
        )

        def done(end: Exit) -> None:
            self.exit = end
            self._ended(process, last=True)

        process.key = part.node.start(order, done)

    def start_on(
        self,
        node: str,
        argv: Sequence[str],
        output: Output,
        done: Callable[[Exit], None],
    ) -> PayloadProcess:
        """Start one more process on a node of the payload, with what it writes told to `output` as
        `Node.start` does it, and its end to `done`. It has the environment that the first process
        would have there. Raises JobError."""
        part = next((part for part in self._parts if part.node.name == node), None)
        if part is None:
            raise JobError(Code.PAYLOAD_FAILED, f"the job has no node {node!r}")
        process = PayloadProcess(part.node)
        with self._lock:
            if self._ending:
                raise JobError(Code.PAYLOAD_FAILED, "the job's first process has ended")
            self._running.add(process)
        order = Order(name=self._name, spec=self._spec, argv=argv, box=part.box, cpus=part.cpus)

        def ended(end: Exit) -> None:
            self._ended(process)
            done(end)

        try:
            process.key = part.node.start(order, ended, output)
        except JobError:
            self._ended(process)
            raise
        if self.exit is not None:
            # All others were killed while it was started.
            process.signal(signal.SIGKILL)
        return process

    @property
    def parts(self) -> Sequence[Part]:
        """Those on nodes that are not lost."""
        return self._parts

    def gain(self, part: Part) -> None:
        """Have one more node."""
        with self._lock:
            self._parts = (*self._parts, part)

    def lose(self, node: str) -> None:
        """Have a node no more, which is lost with what runs there: its ends are still told."""
        with self._lock:
            self._parts = tuple(part for part in self._parts if part.node.name != node)

    def signal(self, number: int) -> None:
        """Send a signal to the processes on all nodes; KILL ends all of them."""
        with self._lock:
            running = list(self._running)
        for process in running:
            process.signal(number)

    def outlives(self, node: str) -> bool:
        """It does not, whichever that is: its processes are one program."""
        return False

    def _ended(self, process: PayloadProcess, *, last: bool = False) -> None:
        with self._lock:
            self._running.discard(process)
            self._ending = self._ending or last
            rest = list(self._running) if last else []
            over = self._ending and not self._running
        for other in rest:
            other.signal(signal.SIGKILL)
        if over:
            self.over.set()
