"""The standing boxes of an agent's node: many processes a second start there and end.

What they wrote lies on the node and is read here: the pilot would have to ask the shared file
system for two files a process. It goes with their ends, many in a frame. What is long is read
beside the agent's loop, and goes no faster than the link takes it: then ends wait, and with them
what would be started next.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from ailurus.loops import Loops
from ailurus.protocol.errors import Code
from pilot.agents import messages as a
from pilot.agents.chores import Chores, judged
from pilot.agents.wire import Wire
from pilot.blame import GUARDIAN_DIED, Target, job_error
from pilot.node.local import LocalNode
from pilot.node_ports import NOTHING, Explanation, Finish, Standing, TaskOutput
from pilot.ports import JobError, ProcessEnd

FRAME_BYTES = 1 << 20
"""Of output in a frame, and the last process's more."""
BACKLOG_BYTES = 8 << 20
"""When so much waits for the pilot, ends do too."""
_PAUSE_S = 0.01


class Boxes:
    """The boxes, by the pilot's numbers. The agent's loop calls it."""

    def __init__(
        self,
        node: LocalNode,
        wire: Wire,
        keys: MutableMapping[int, int],
        loops: Loops,
        ring: Callable[[], None],
    ) -> None:
        """`keys`: the pilot's key of a process → the node's. `ring`: has `tell` called soon."""
        self._node, self._wire, self._keys = node, wire, keys
        self._standing: dict[int, Standing] = {}
        # Those that the pilot wants, be they made or not.
        self._wanted: set[int] = set()
        self._lock = threading.Lock()
        self._making = Chores("boxes", loops)
        self._telling = Chores("ends", loops)
        self._ring = ring
        # Any thread adds to it.
        self._fresh: deque[tuple[int, Finish]] = deque()
        # What takes long to tell.
        self._ended: deque[tuple[int, Finish]] = deque()
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The agent kills all: how that ends says nothing of it, and is not told."""
        self._over = True

    def stand(self, message: a.Stand, own: Path) -> None:
        """Make one, beside the loop. `own`: what the payload has on this node."""
        self._wanted.add(message.ticket)
        self._making.add(lambda: self._make(message, own))

    def then(self, what: Callable[[], object]) -> None:
        """Do something once all boxes asked for so far stand, or do not come to."""
        self._making.add(what)

    def start_all(self, message: a.StartAll) -> None:
        standing = self._standing[message.box]
        for key, _ in message.tasks:
            # Before it can have ended.
            self._keys[key] = -1
        own = standing.start_all([(task, partial(self._done, key)) for key, task in message.tasks])
        for (key, _), number in zip(message.tasks, own, strict=True):
            if key in self._keys:
                self._keys[key] = number

    def look(self, message: a.LookAt) -> None:
        """Look beside the loop, and before ends that come later are told."""

        def told(outputs: Sequence[TaskOutput]) -> None:
            self._wire.send(a.Saw(message.ticket, [*outputs]))

        if (standing := self._standing.get(message.box)) is not None:
            self._telling.add(lambda: standing.look(message.wanted, told))

    def close(self, box: int) -> None:
        with self._lock:
            self._wanted.discard(box)
            standing = self._standing.pop(box, None)
        if standing is not None:
            standing.close()

    def _make(self, message: a.Stand, own: Path) -> None:
        order = message.order
        try:
            # Its own files are not for those on other nodes to see.
            own.mkdir(mode=0o700, parents=True, exist_ok=True)
            (own / "tmp").mkdir(mode=0o700, exist_ok=True)
            box = replace(order.box, own=str(own))
            check = partial(self._check, message.ticket)
            check()
            standing = self._node.stand(replace(order, box=box), check)
            with self._lock:
                if wanted := message.ticket in self._wanted:
                    self._standing[message.ticket] = standing
            if not wanted:
                standing.close()
        except Exception as error:  # noqa: BLE001 - the pilot waits for the box
            self._wire.send(a.Prepared(message.ticket, fault=a.Fault.of(judged(error))))
        else:
            self._wire.send(a.Prepared(message.ticket))

    def _check(self, box: int) -> None:
        """Raise JobError for a box that the pilot wants no more."""
        if box not in self._wanted:
            raise JobError(Code.KILLED_BY_SERVER, "the job was stopped before its box stood")

    def _done(self, key: int, finish: Finish) -> None:
        self._keys.pop(key, None)
        if self._over:
            return
        self._fresh.append((key, finish))
        self._ring()

    def tell(self) -> None:
        """Tell of those that have ended; where that may take long, beside the loop."""
        ends: list[a.TaskOver] = []
        while self._fresh:
            key, finish = self._fresh.popleft()
            if (wrote := finish.at_once()) is None:
                self._ended.append((key, finish))
                self._telling.add(self._tell)
            else:
                ends.append(a.TaskOver(key, finish.process, *wrote, finish.memory))
        if ends:
            self._wire.send(a.TasksOver(ends))

    def _tell(self) -> None:
        while self._ended:
            while self._wire.backlog > BACKLOG_BYTES:
                time.sleep(_PAUSE_S)
            ends: list[a.TaskOver] = []
            size = 0
            while self._ended and size < FRAME_BYTES:
                key, finish = self._ended.popleft()
                try:
                    out, err = finish.take()
                except Exception as error:  # noqa: BLE001 - somebody waits for the end
                    judged(error)
                    out = err = NOTHING
                ends.append(a.TaskOver(key, finish.process, out, err, finish.memory))
                size += len(out.data) + len(err.data) + 100
            self._wire.send(a.TasksOver(ends))


def not_begun(key: int, error: JobError | OSError) -> a.ProcessOver:
    """The end of a process that could not be started."""
    if isinstance(error, OSError):
        error = job_error(error, "cannot make the payload's directory", Target.NODE)
    end = ProcessEnd(key=key, errno=GUARDIAN_DIED, before=True)
    return a.ProcessOver(key, end, a.Explained.of(Explanation(error=error)))
