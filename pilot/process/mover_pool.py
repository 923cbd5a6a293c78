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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol.errors import Code
from pilot.clock import SYSTEM, Clock
from pilot.ports import Check, Found, JobError, Moved, NotMoved, Progress, ToGet, ToPut
from pilot.process import mover
from pilot.process.children import Died, Launch, MoverChild
from pilot.process.frames import MOST_FDS

MOST_FILES = 1000
"""Of one batch; uploads have fewer, for each has an open file."""
MOST_DEATHS = 3
"""Of children with one file."""
DEATHS_IN_A_ROW = 5
"""Of children that moved nothing: then the plugin is broken, not the file."""
START_S = 60.0
"""To import a transfer library, which may lie on a network's file system."""
CALL_S = 120.0
"""To delete, or to list a data set."""
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 30.0)
"""Before the next child, by how many have died in a row."""

End = Moved | NotMoved
_log = Log("pilot.mover")


class Watch(Struct, frozen=True, kw_only=True):
    """What a transfer asks of the job it is for."""

    check: Check
    wakeup: threading.Event
    """Set when the job is to stop."""
    time_s: Callable[[int | None], float]
    """How long a file of so many bytes may take."""
    progress: Callable[[int, int], None] = lambda key, moved_bytes: None
    """Told the bytes of a file so far; may raise JobError to end that file."""


class _Late(Exception):
    """A file is past its time."""

    def __init__(self, key: int, seconds: float) -> None:
        super().__init__(key, seconds)
        self.key, self.seconds = key, seconds


class _Ended(Exception):
    """Something is wrong with one file, which only the child's end can stop."""

    def __init__(self, key: int, error: JobError) -> None:
        super().__init__(key, error)
        self.key, self.error = key, error


class MoverPool:
    """The children of one mover plugin, shared by all jobs; the first is started when a job needs
    one. Called from many threads."""

    def __init__(
        self, name: str, options: Mapping[str, Any], launch: Launch, clock: Clock = SYSTEM
    ) -> None:
        self.name = name
        self._setup = mover.Setup(name, dict(options))
        self._launch, self._clock = launch, clock
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._idle: MoverChild | None = None
        # Of the idle one, and of those that jobs use.
        self._count = 0
        self._waiting: list[threading.Event] = []
        # Children that died since one last moved a file; when the next may start; how the last
        # died.
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
        while todo:
            batch = _Batch(todo.popleft(), ends, self._clock, watch)
            try:
                with self._child(watch) as child:
                    batch.run(child, sources)
            except _Late as late:
                self._remove(batch.written(), watch)
                batch.late(late)
            except _Ended as ended:
                batch.end(ended.key, ended.error)
            except Died as died:
                self._remove(batch.written(), watch)
                suspects = batch.suspects()
                deaths.update(suspects)
                for key in suspects:
                    if deaths[key] >= MOST_DEATHS:
                        batch.killer(key, self.name, str(died))
                    else:
                        todo.append([file for file in files if file.key == key])
                batch.forget(suspects)
            if batch.moved:
                self._deaths = 0
            if batch.pending:
                todo.appendleft([*batch.pending.values()])

    def _remove(self, urls: Sequence[str], watch: Watch) -> None:
        """What a child that is gone had begun to write: else the next one finds the name taken."""
        with suppress(JobError):
            if urls:
                self.delete(urls, watch)

    def _asked(self, order: mover.Order, watch: Watch) -> mover.Answer:
        """The answer to a call that moves nothing."""
        deadline = self._clock.monotonic() + CALL_S
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
                    f"the mover {self.name} did not answer within {CALL_S:.0f} s",
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
                self._died(str(error))
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
            watch.wakeup.wait()
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


class _Batch:
    """One call with files, and what became of them so far."""

    def __init__(
        self,
        files: Sequence[ToGet] | Sequence[ToPut],
        ends: dict[int, End],
        clock: Clock,
        watch: Watch,
    ) -> None:
        self.pending = {file.key: file for file in files}
        """In the order in which a mover takes them."""
        self.moved = False
        self._ends, self._clock, self._watch = ends, clock, watch
        self._began: dict[int, float] = {}
        self._written: set[int] = set()
        self._news_at = clock.monotonic()
        first = next(iter(files))
        self._late = Code.STAGE_OUT_TIMEOUT if isinstance(first, ToPut) else Code.STAGE_IN_TIMEOUT
        self._failed = Code.STAGE_OUT_FAILED if isinstance(first, ToPut) else Code.STAGE_IN_FAILED

    def run(self, child: MoverChild, sources: Mapping[int, int]) -> None:
        """Give the files to a child and note their ends until its call is over. Raises _Late,
        _Ended and Died for what costs the child, JobError where the job stops."""
        files = list(self.pending.values())
        puts = [file for file in files if isinstance(file, ToPut)]
        gets = [file for file in files if isinstance(file, ToGet)]
        order = mover.Put(puts) if puts else mover.Get(gets)
        self._news_at = self._clock.monotonic()
        child.send(order, [sources[file.key] for file in files] if sources else ())
        for answer in child.answers():
            self._watch.check()
            if isinstance(answer, mover.Over):
                break
            if isinstance(answer, mover.Refused):
                for key in list(self.pending):
                    self.end(key, _error(answer))
                return
            if isinstance(answer, Progress):
                self._progressed(answer)
            elif isinstance(answer, Moved | NotMoved) and answer.key in self.pending:
                del self.pending[answer.key]
                self._ends[answer.key] = answer
                self._news_at = self._clock.monotonic()
                self.moved |= isinstance(answer, Moved)
            if self.pending:
                self._judge()
        for key in list(self.pending):
            silent = "the transfer library ended and did not say how this file fared"
            self.end(key, JobError(self._failed, silent, remedy="the job is tried again"))

    def _progressed(self, news: Progress) -> None:
        if news.key not in self.pending:
            return
        self._began.setdefault(news.key, self._clock.monotonic())
        if news.moved_bytes:
            self._written.add(news.key)
        try:
            self._watch.progress(news.key, news.moved_bytes)
        except JobError as error:
            raise _Ended(news.key, error) from None

    def _judge(self) -> None:
        """Raise _Late if a file has had its time: since it began or, where the mover tells nothing
        of beginnings, since anything ended."""
        now = self._clock.monotonic()
        suspects = self.suspects()
        for key in suspects:
            limit_s = self._watch.time_s(self.pending[key].size)
            if now - self._began.get(key, self._news_at) > limit_s:
                raise _Late(key, limit_s)

    def written(self) -> list[str]:
        """Where uploads have written and not ended."""
        pending = [self.pending[key] for key in self._written if key in self.pending]
        return [file.url for file in pending if isinstance(file, ToPut)]

    def suspects(self) -> list[int]:
        """The files that were under way: those that have begun, else the first."""
        began = [key for key in self.pending if key in self._began]
        return began or [*self.pending][:1]

    def end(self, key: int, error: JobError) -> None:
        if self.pending.pop(key, None) is not None:
            self._ends[key] = NotMoved(
                key=key,
                code=error.code,
                message=error.message,
                remedy=error.remedy,
                transient=error.transient,
            )

    def late(self, late: _Late) -> None:
        error = JobError(
            self._late,
            f"the transfer took longer than {late.seconds:.0f} s",
            remedy="is the storage slow? The site file's storage.min_speed and limits.staging give "
            "it more time",
        )
        self.end(late.key, error)

    def killer(self, key: int, name: str, how: str) -> None:
        error = JobError(
            self._failed,
            f"the process of the mover {name} died {MOST_DEATHS} times with this file: {how}",
            remedy="the pilot's log has the end of its stderr",
        )
        self.end(key, error)

    def forget(self, keys: Sequence[int]) -> None:
        """Leave these files to other batches."""
        for key in keys:
            self.pending.pop(key, None)


class _Answered(Exception):
    """The plugin itself refused; its child is well."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error)
        self.error = error


def _accepted(answer: mover.Answer) -> mover.Answer:
    if isinstance(answer, mover.Refused):
        raise _Answered(_error(answer))
    return answer


def _error(refused: mover.Refused) -> JobError:
    return JobError(
        refused.code, refused.message, remedy=refused.remedy, transient=refused.transient
    )


def _batches(files: Sequence[Any], most: int) -> Iterator[list[Any]]:
    todo = iter(files)
    while batch := list(itertools.islice(todo, most)):
        yield batch
