"""The pilot's end of its movers: batches of files go to a child process, and each file comes back
with how it ended, whatever became of the child.

A file that takes too long costs the child, which is killed with all that it started: that file has
failed, and the others go to a new child. A child may die, too: the files that it had begun are then
tried again one by one, and one that kills children again and again has failed. A child belongs to
one job at a time, so a job that stops takes down nobody else's transfer.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ailurus.logs import Log
from ailurus.protocol.errors import Code
from pilot.clock import SYSTEM, Clock
from pilot.ports import Found, JobError, ToGet, ToPut
from pilot.process import mover
from pilot.process.batch import MOST_DEATHS, Batch, End, Ended, Late, Watch, refusal
from pilot.process.children import Died, Launch, MoverChild
from pilot.process.frames import MOST_FDS

MOST_FILES = 1000
"""Of one batch; uploads have fewer, for each has an open file."""
DEATHS_IN_A_ROW = 5
"""Of children that moved nothing of one job's, or that did not come to be ready: then the plugin is
broken, not the file."""
START_S = 60.0
"""To import a transfer library, which may lie on a network's file system."""
CALL_S = 120.0
"""To delete, or to list a data set."""
CLEARING_S = 10.0
"""To delete what an upload left, while its job waits; later somebody else does it."""
AGAIN_S = 1.0
"""After so long a job that waits for a child looks by itself."""
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 30.0)
"""Before the next child, by how many have died in a row."""

_log = Log("pilot.mover")


class MoverPool:
    """The children of one mover plugin, shared by all jobs; the first is started when a job needs
    one. Called from many threads."""

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        launch: Launch,
        clock: Clock = SYSTEM,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        """`credentials`: files of a user's, in place of the site's; see
        `plugins.with_credentials`."""
        self.name = name
        self._setup = mover.Setup(name, dict(options), dict(credentials or {}))
        self._launch, self._clock = launch, clock
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._idle: MoverChild | None = None
        # Of the idle one, and of those that jobs use.
        self._count = 0
        self._waiting: list[threading.Event] = []
        # Children that died since one last was ready: by no job's files, so this is all jobs'. When
        # the next may start; how the last died.
        self._deaths, self._not_before, self._how = 0, 0.0, ""

    def get(self, files: Sequence[ToGet], watch: Watch) -> dict[int, End]:
        """Bring files; how each ended, by key. Raises JobError for what concerns none of them: the
        job stops, the plugin does not work."""
        ends: dict[int, End] = {}
        for batch in _batches(files, MOST_FILES):
            self._move(batch, {}, watch, ends)
        return ends

    def put(
        self, files: Sequence[ToPut], sources: Mapping[int, int], watch: Watch
    ) -> dict[int, End]:
        """Take files to storage, whose open descriptors are `sources`, by key; else as `get`."""
        ends: dict[int, End] = {}
        for batch in _batches(files, MOST_FDS // 2):
            self._move(batch, sources, watch, ends)
        return ends

    def delete(self, urls: Sequence[str], watch: Watch) -> Mapping[str, str]:
        """Why, of each file that could not be removed. Raises JobError."""
        answer = self._asked(mover.Delete(list(urls)), watch)
        return answer.left if isinstance(answer, mover.Deleted) else {}

    def expand(self, url: str, watch: Watch) -> Sequence[Found]:
        """The files that `url` names. Raises JobError."""
        answer = self._asked(mover.Expand(url), watch)
        return answer.files if isinstance(answer, mover.Expansion) else ()

    def examine(self, watch: Watch) -> Sequence[str]:
        """What the service behind the storage says of this site. Raises JobError."""
        answer = self._asked(mover.Examine(), watch)
        return answer.said if isinstance(answer, mover.Examined) else ()

    def close(self) -> None:
        """End the child that no job uses, once it has finished what it does beside its calls."""
        with self._lock:
            idle, self._idle = self._idle, None
            self._count -= idle is not None
        if idle is not None:
            idle.finish()

    def _move(
        self,
        files: Sequence[ToGet] | Sequence[ToPut],
        sources: Mapping[int, int],
        watch: Watch,
        ends: dict[int, End],
    ) -> None:
        """Fill `ends` for all `files`, with as many children as it takes."""
        todo = deque([[*files]])
        deaths: Counter[int] = Counter()
        in_a_row = 0
        while todo:
            batch = Batch(todo.popleft(), ends, self._clock, watch)
            try:
                with self._child(watch) as child:
                    batch.run(child, sources)
            except Late as late:
                batch.late(late, self._cleared(batch, watch))
            except Ended as ended:
                batch.end(ended.key, ended.error, left=not self._cleared(batch, watch))
            except Died as died:
                self._cleared(batch, watch)
                in_a_row = 1 if batch.moved else in_a_row + 1
                if in_a_row >= DEATHS_IN_A_ROW:
                    raise self._broken(str(died)) from None
                suspects = batch.suspects()
                deaths.update(suspects)
                for key in suspects:
                    if deaths[key] >= MOST_DEATHS:
                        batch.killer(key, self.name, str(died))
                    else:
                        todo.append([file for file in files if file.key == key])
                batch.forget(suspects)
            else:
                in_a_row = 0
            if batch.pending:
                todo.appendleft([*batch.pending.values()])

    def _cleared(self, batch: Batch, watch: Watch) -> bool:
        """Remove what a child that is gone had begun to write, or the next one would find the names
        taken. Whether nothing is left."""
        batch.drop()
        if not (urls := batch.written()):
            return True
        try:
            answer = self._asked(mover.Delete(urls), watch, CLEARING_S)
        except JobError:
            return False
        return isinstance(answer, mover.Deleted) and not answer.left

    def _asked(self, order: mover.Order, watch: Watch, call_s: float = CALL_S) -> mover.Answer:
        """The answer to a call that moves nothing."""
        deadline = self._clock.monotonic() + call_s
        try:
            with self._child(watch) as child:
                child.send(order)
                for answer in child.answers():
                    watch.check()
                    if answer is not None:
                        return _accepted(answer)
                    if self._clock.monotonic() > deadline:
                        break
                # Inside, so that the child goes.
                raise JobError(
                    Code.COMMAND_TIMEOUT,
                    f"the mover {self.name} did not answer within {call_s:.0f} s",
                    remedy="does the storage or the catalogue answer? The job is tried again",
                )
        except Died as died:
            raise self._broken(str(died)) from None

    @contextmanager
    def _child(self, watch: Watch) -> Iterator[MoverChild]:
        """A child of one's own. Whatever leaves this by an error, but for what the plugin itself
        answered, costs the child."""
        child = self._taken(watch)
        try:
            yield child
        except _Answered as answered:
            self._given_back(child)
            raise answered.error from None
        except BaseException as error:
            if isinstance(error, Died):
                _log.warning("mover_died", mover=self.name, how=str(error))
            child.end()
            self._given_back(None)
            raise
        else:
            self._given_back(child)

    def _taken(self, watch: Watch) -> MoverChild:
        while True:
            watch.check()
            with self._lock:
                child, self._idle = self._idle, None
                if child is not None:
                    break
                if self._count < self._launch.parallel:
                    self._count += 1
                    break
                self._waiting.append(watch.wakeup)
            # Transfers of one job share it, and one may take it from another.
            watch.wakeup.wait(AGAIN_S)
            watch.wakeup.clear()
            with self._lock:
                self._waiting = [one for one in self._waiting if one is not watch.wakeup]
        if child is not None:
            if child.lives:
                return child
            child.end()
        try:
            return self._started(watch)
        except BaseException:
            self._given_back(None)
            raise

    def _given_back(self, child: MoverChild | None) -> None:
        with self._lock:
            # One is kept for the next job; more would only keep memory.
            if child is not None and self._idle is None:
                self._idle, child = child, None
            else:
                self._count -= 1
            waiting, self._waiting = self._waiting, []
        for wakeup in waiting:
            wakeup.set()
        if child is not None:
            child.finish()

    def _started(self, watch: Watch) -> MoverChild:
        """A new child that has loaded its plugin. Raises JobError."""
        while True:
            self._pause(watch)
            child = MoverChild(self._launch, self.name, next(self._numbers))
            deadline = self._clock.monotonic() + START_S
            try:
                child.send(self._setup)
                for answer in child.answers():
                    watch.check()
                    if isinstance(answer, mover.Ready):
                        self._deaths = 0
                        return child
                    if answer is not None and not isinstance(answer, mover.Over):
                        _accepted(answer)
                    if self._clock.monotonic() > deadline:
                        raise Died(f"its library did not load within {START_S:.0f} s")
            except Died as died:
                child.end()
                self._died(str(died))
            except _Answered as answered:
                child.end()
                raise answered.error from None
            except BaseException:
                child.end()
                raise

    def _pause(self, watch: Watch) -> None:
        """Wait until another child may be started. Raises JobError where too many died."""
        left_s = self._not_before - self._clock.monotonic()
        if left_s <= 0:
            return
        if self._deaths >= DEATHS_IN_A_ROW:
            raise self._broken(self._how)
        while left_s > 0:
            self._clock.wait(watch.wakeup, left_s)
            watch.wakeup.clear()
            watch.check()
            left_s = self._not_before - self._clock.monotonic()

    def _died(self, how: str) -> None:
        _log.warning("mover_died", mover=self.name, how=how)
        with self._lock:
            self._deaths += 1
            pause_s = PAUSES_S[min(self._deaths, len(PAUSES_S) - 1)]
            self._not_before = self._clock.monotonic() + pause_s
            self._how = how

    def _broken(self, how: str) -> JobError:
        return JobError(
            Code.SERVICE_UNAVAILABLE,
            f"the process that runs the mover {self.name} died: {how}",
            remedy="the pilot's log has the end of its stderr; does its transfer library work on "
            "this node?",
        )


class _Answered(Exception):
    """The plugin itself refused; its child is well."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error)
        self.error = error


def _accepted(answer: mover.Answer) -> mover.Answer:
    if isinstance(answer, mover.Refused):
        raise _Answered(refusal(answer))
    return answer


def _batches(files: Sequence[Any], most: int) -> Iterator[list[Any]]:
    todo = iter(files)
    while batch := list(itertools.islice(todo, most)):
        yield batch
