"""One call of a mover with files, as the pilot follows it: which are pending, which are under way,
how each ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ailurus.protocol.errors import Code
from pilot.clock import Clock
from pilot.ports import Check, JobError, Moved, NotMoved, Progress, ToGet, ToPut
from pilot.process import mover
from pilot.process.children import MoverChild

MOST_DEATHS = 3
"""Of children with one file."""

End = Moved | NotMoved


class Watch(Struct, frozen=True, kw_only=True):
    """What a transfer asks of the job it is for."""

    check: Check
    wakeup: threading.Event
    """Set when the job is to stop."""
    time_s: Callable[[int | None], float]
    """How long a file of so many bytes may take."""
    progress: Callable[[int, int], None] = lambda key, moved_bytes: None
    """Told the bytes of a file so far; may raise JobError to end that file."""


class Late(Exception):
    """A file is past its time."""

    def __init__(self, key: int, seconds: float) -> None:
        super().__init__(key, seconds)
        self.key, self.seconds = key, seconds


class Ended(Exception):
    """Something is wrong with one file, which only the child's end can stop."""

    def __init__(self, key: int, error: JobError) -> None:
        super().__init__(key, error)
        self.key, self.error = key, error


class Batch:
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
        """Give the files to a child and note their ends until its call is over. Raises Late,
        Ended and Died for what costs the child, JobError where the job stops."""
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
                    self.end(key, refusal(answer))
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
            raise Ended(news.key, error) from None

    def _judge(self) -> None:
        """Raise Late if a file has had its time: since it began or, where the mover tells nothing
        of beginnings, since anything ended."""
        now = self._clock.monotonic()
        suspects = self.suspects()
        for key in suspects:
            limit_s = self._watch.time_s(self.pending[key].size)
            if now - self._began.get(key, self._news_at) > limit_s:
                raise Late(key, limit_s)

    def written(self) -> list[str]:
        """Where uploads have written and not ended."""
        pending = [self.pending[key] for key in self._written if key in self.pending]
        return [file.url for file in pending if isinstance(file, ToPut)]

    def drop(self) -> None:
        """Remove the parts of downloads that have begun."""
        for file in map(self.pending.get, self._began):
            if isinstance(file, ToGet):
                Path(file.path).unlink(missing_ok=True)

    def suspects(self) -> list[int]:
        """The files that were under way: those that have begun, else the first."""
        began = [key for key in self.pending if key in self._began]
        return began or [*self.pending][:1]

    def end(self, key: int, error: JobError, *, left: bool = False, died: bool = False) -> None:
        if self.pending.pop(key, None) is not None:
            self._ends[key] = NotMoved(
                key=key,
                code=error.code,
                message=error.message,
                remedy=error.remedy,
                transient=error.transient,
                left=left,
                died=died,
            )

    def late(self, late: Late, cleared: bool) -> None:
        error = JobError(
            self._late,
            f"the transfer took longer than {late.seconds:.0f} s",
            remedy="is the storage slow? The site file's storage.min_speed and limits.staging give "
            "it more time",
        )
        self.end(late.key, error, left=not cleared)

    def killer(self, key: int, name: str, how: str) -> None:
        error = JobError(
            self._failed,
            f"the process of the mover {name} died {MOST_DEATHS} times with this file: {how}",
            remedy="the pilot's log has the end of its stderr",
        )
        self.end(key, error, died=True)

    def forget(self, keys: Sequence[int]) -> None:
        """Leave these files to other batches."""
        for key in keys:
            self.pending.pop(key, None)


def refusal(refused: mover.Refused) -> JobError:
    """What a plugin raised."""
    return JobError(
        refused.code, refused.message, remedy=refused.remedy, transient=refused.transient
    )
