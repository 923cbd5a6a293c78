"""Files that the pilot moves itself, by transfers that need no library: each with its tries and its
time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

from ailurus.protocol.errors import Code
from ailurus.protocol.messages import DoneFile
from ailurus.protocol.url import Url
from pilot.attempt import Attempt
from pilot.blame import OSErrorsOn, Target
from pilot.clock import Clock
from pilot.files.at_once import at_once
from pilot.files.declared import compare
from pilot.files.delegated_pools import of_the_grid
from pilot.files.destinations import field_of
from pilot.files.input_space import SharedSpace, Wanted, bounded
from pilot.files.leaving import ToStore
from pilot.files.tries import pauses
from pilot.ports import Check, Copied, JobError, TakesUsers, Transfer
from pilot.process.usage import charge
from pilot.site import Bounds
from pilot.workdir import Workdir

T = TypeVar("T")
_AsUser = tuple[tuple[str, str] | None, Transfer]
"""Token and proxy, and what moves files with them; by URL scheme."""
LARGE = 8 << 20
"""Bytes of a file that takes its time on any network."""


@runtime_checkable
class OfJobs(Protocol):
    """A `Transfer` of what belongs to jobs."""

    def of(self, attempt: Attempt) -> Transfer:
        """The same for the files of an attempt."""


class InProcess:
    """The transfers of this site, several files of a job at a time."""

    def __init__(
        self, transfers: Callable[[str], Transfer], bounds: Bounds, parallel: int, clock: Clock
    ) -> None:
        self._transfers, self._bounds = transfers, bounds
        self._parallel, self._clock = parallel, clock
        # With connections that know a job's user, as long as that job is.
        self._as_users: WeakKeyDictionary[Attempt, dict[str, _AsUser]] = WeakKeyDictionary()

    def transfer(self, attempt: Attempt, url: Url) -> Transfer:
        """What moves a job's files at `url`: as its user, where the job brought a token or a
        proxy. Raises JobError."""
        found = self._transfers(url.scheme)
        if isinstance(found, OfJobs):
            return found.of(attempt)
        token, proxy = of_the_grid(attempt.credentials)
        if not (token or proxy) or not isinstance(found, TakesUsers):
            return found
        kept = self._as_users.setdefault(attempt, {})
        given, made = kept.get(url.scheme, (None, found))
        if given != (token, proxy):
            # The first of them, or one that has been renewed.
            made = found.as_user(token, proxy)
            kept[url.scheme] = (token, proxy), made
        return made

    def fetch(self, attempt: Attempt, work: Workdir, wanted: Sequence[Wanted], left: int) -> int:
        """Bring files into the job's directory; those of undeclared size have `left` bytes. What
        they left of these. Raises JobError."""
        space = SharedSpace(left)

        def bring(one: Wanted, check: Check) -> None:
            with field_of(one.field):
                self._bring(one, attempt, work, space, check)

        for one in wanted:
            if attempt.staging is not None:
                attempt.staging.expect(one.name, one.file.size)
        slow = any((one.file.size or 0) > LARGE for one in wanted)
        at_once(wanted, bring, self._parallel, slow=slow, clock=self._clock)
        return space.left

    def put(self, attempt: Attempt, one: ToStore, outage_s: float, another: Check) -> DoneFile:
        """Take an open output to storage, which may be away for `outage_s`; `another` raises once
        another output has failed. Raises JobError."""

        def once(check: Check) -> Copied:
            def both() -> None:
                check()
                another()

            os.lseek(one.source, 0, os.SEEK_SET)
            return self.transfer(attempt, one.url).put(one.source, one.url, both)

        size = os.fstat(one.source).st_size
        copied = self._repeated(attempt, once, Code.STAGE_OUT_TIMEOUT, size, outage_s)
        return DoneFile(
            name=one.name,
            url=one.url.text,
            size=copied.size,
            adler32=copied.adler32,
            md5=copied.md5,
        )

    def _bring(
        self, one: Wanted, attempt: Attempt, work: Workdir, space: SharedSpace, another: Check
    ) -> None:
        """Stage one input in; `another` raises once another has failed."""
        staging = attempt.staging

        def moved(size: int) -> None:
            if staging is not None:
                staging.moved(one.name, size)

        def once(check: Check) -> int:
            def both() -> None:
                check()
                another()

            transfer = self.transfer(attempt, one.url)
            return self._get(one, transfer, work, space, both, moved)

        size = self._repeated(attempt, once, Code.STAGE_IN_TIMEOUT, one.file.size)
        if staging is not None:
            staging.done(one.name, size)

    def _get(
        self,
        one: Wanted,
        transfer: Transfer,
        work: Workdir,
        space: SharedSpace,
        check: Check,
        moved: Callable[[int], None],
    ) -> int:
        """One try to stage an input in; its size."""
        file, url = one.file, one.url
        with OSErrorsOn(Target.NODE, f"cannot make the input {file.name!r}"):
            try:
                into = work.create(file.name)
            except FileExistsError:
                # An earlier try left it; or payloads that run have put something there.
                work.remove(file.name)
                into = work.create(file.name)
        try:
            within = bounded(file, into, space, check, moved)
            copied = transfer.get(url, into, within, md5=file.md5 is not None)
            if file.size is None:
                space.take(file.name, charge(os.fstat(into)))
        finally:
            os.close(into)
        compare(file, copied)
        return copied.size

    def _repeated(
        self,
        attempt: Attempt,
        once: Callable[[Check], T],
        late: Code,
        size: int | None,
        outage_s: float = 0.0,
    ) -> T:
        """Do a transfer of `size` bytes, up to three times while its failure is transient, or
        until its storage has been away for `outage_s`. One that takes longer than its size allows
        fails with the code `late`. Raises JobError."""
        clock, limit_s = self._clock, self._bounds.time_s(size)
        deadline = clock.monotonic() + self._bounds.staging_s
        late_at = 0.0

        def check() -> None:
            attempt.check()
            if clock.monotonic() > late_at:
                raise JobError(
                    late,
                    f"a transfer took longer than {limit_s:.0f} s",
                    remedy="is the storage slow? The site file's storage.min_speed and "
                    "limits.staging give it more time",
                )

        left = pauses(clock, outage_s)
        while True:
            late_at = min(deadline, clock.monotonic() + limit_s)
            try:
                return once(check)
            except JobError as error:
                attempt.check()
                pause_s = next(left, None)
                again = error.transient and (error.code is not late or outage_s > 0)
                if not again or pause_s is None or clock.monotonic() + pause_s > deadline:
                    raise
                attempt.note(f"tries again after: {error}")
                attempt.pause(pause_s)
                attempt.renew()
