"""Staging: inputs into the job's directory, outputs from it to storage, measured on the way."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TypeVar

from ailurus.protocol import did, job
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.messages import DoneFile
from ailurus.protocol.url import LONGEST, Url
from pilot.attempt import Attempt
from pilot.blame import OSErrorsOn, Target, job_error
from pilot.clock import SYSTEM, Clock
from pilot.files.input_space import bounded
from pilot.files.movers import PAUSES_S, Movers, ToStore, compare
from pilot.ports import Check, Copied, JobError, Transfer
from pilot.process.usage import charge
from pilot.progress import StagingProgress
from pilot.site import Bounds, Storage
from pilot.workdir import Workdir

T = TypeVar("T")
REPORT_BYTES, FILE_BYTES = 6_000_000, 150
"""Of a report's files all together, and of one beside its name and URL: dispatchers take 8 MiB a
request, and a report that is longer would never arrive."""
MOST_OPEN = 100
"""Outputs that are open at once for a mover."""
# What opening a link, a socket or a device fails with.
_NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)


class Stage:
    """Moves the files of jobs with the transfers of this site."""

    def __init__(
        self,
        transfers: Callable[[str], Transfer],
        default_output: str,
        bounds: Bounds,
        storage: Storage = Storage(),  # noqa: B008 - frozen
        movers: Movers | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.logs = storage.logs
        """Whose log.tgz is kept, see `site.Storage`."""
        self._movers = movers or Movers(storage, bounds)
        self._direct_read = storage.direct_read
        self._rse, self._alternative = storage.rse, storage.alternative_output
        self._transfers = transfers
        self._default = default_output
        self._bounds = bounds
        self._clock = clock

    @property
    def has_default(self) -> bool:
        return bool(self._default)

    def allowed(self, attempt: Attempt) -> None:
        """Raise JobError for a job whose files could not be staged later, so that it does not
        begin."""
        for index, file in enumerate(attempt.spec.inputs):
            with _field(f"inputs[{index}].url"):
                self._allow(url := _parsed(file.url))
                if file.direct:
                    self._allow_direct(url)
        named_bytes = 0
        for index, output in enumerate(attempt.spec.outputs):
            with _field(f"outputs[{index}].url"):
                url = self.physical(attempt, output)
                self._allow(url)
                named_bytes += FILE_BYTES + len(output.name) + len(url.text.encode())
        if named_bytes > REPORT_BYTES:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"names and URLs of the {len(attempt.spec.outputs)} outputs are longer than the report of a job "
                f"may be: {named_bytes} bytes, of {REPORT_BYTES}",
                field="outputs",
                remedy="give them shorter directories, or pack them into one file",
            )
        declared = sum(file.size or 0 for file in attempt.spec.inputs)
        if 0 < self._bounds.inputs_bytes < declared:
            raise JobError(
                Code.INPUTS_TOO_LARGE,
                f"the inputs have {declared} bytes, this site takes {self._bounds.inputs_bytes}",
                field="inputs",
            )

    def _allow(self, url: Url) -> None:
        if self._movers.serve(url.scheme):
            self._movers.allowed(url)
        else:
            self._transfers(url.scheme).allowed(url)

    def _allow_direct(self, url: Url) -> None:
        """Raise JobError if a payload may not read `url` itself."""
        if not self._direct_read:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                "this site does not let payloads read inputs directly",
                remedy="leave `direct` out, or let the site file say `storage.direct_read: true`",
            )
        if url.scheme == did.SCHEME:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"{url} is an identifier, which no program opens",
                remedy="name the URL of a replica, or leave `direct` out",
            )

    def physical(self, attempt: Attempt, file: OutputFile, *, instead: str = "") -> Url:
        """The URL of an attempt's output, which no other attempt has; in the directory `instead`,
        if its own takes nothing. Raises JobError if there is none."""
        if file.scope and not instead:
            return self._registered(attempt, file)
        directory = instead or file.url or self._default
        if not directory:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"output {file.name!r} has no url and this site has no default storage",
                remedy="give the output a url, the site file `storage.default_output`, or a pilot without "
                "one --storage",
            )
        url = _parsed(directory).joined(f"{attempt.name}.{file.name}")
        if len(url.text) > LONGEST:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"the URL of output {file.name!r} is longer than {LONGEST} characters",
                remedy="shorten its directory, or the site file's `storage.default_output`",
            )
        return url

    def _registered(self, attempt: Attempt, file: OutputFile) -> Url:
        """Where an output goes that Rucio will know."""
        if not self._rse:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"output {file.name!r} belongs to Rucio, and this site names no storage there",
                remedy="let the site file say `storage.rse`",
            )
        mark = attempt.assignment.mark
        return did.physical(file.scope, *attempt.id, file.name, mark).url(self._rse)

    def planned(self, attempt: Attempt) -> list[str]:
        """All that an attempt may leave in storage."""
        urls = []
        for file in (*attempt.spec.outputs, LOG):
            with contextlib.suppress(JobError):
                urls.append(self.physical(attempt, file).text)
                if self._alternative and not file.scope:
                    urls.append(self.physical(attempt, file, instead=self._alternative).text)
        return urls

    def stage_in(self, attempt: Attempt, work: Workdir) -> None:
        """Bring all inputs into the job's directory. Raises JobError."""
        progress = attempt.staging = StagingProgress(self._clock)
        try:
            self._stage_in(attempt, work, progress)
        finally:
            attempt.staging = None

    def _stage_in(self, attempt: Attempt, work: Workdir, progress: StagingProgress) -> None:
        # Bytes for inputs of undeclared size.
        left = attempt.spec.disk_mb << 20
        wanted = []
        for index, file in enumerate(attempt.spec.inputs):
            with _field(f"inputs[{index}]"):
                url = _parsed(file.url)
                if file.direct:
                    _list(file, url, work)
                    continue
                if self._movers.serve(url.scheme):
                    wanted += self._movers.expanded(index, file, url, attempt)
                    continue
                progress.expect(file.name, file.size)
                get = partial(self._get, file, work, left if file.size is None else file.size)
                taken = self._repeated(attempt, get, Code.STAGE_IN_TIMEOUT)
                progress.done(file.name, taken)
                left -= taken if file.size is None else 0
        self._movers.fetch(attempt, work, wanted, left)

    def stage_out(self, attempt: Attempt, work: Workdir) -> tuple[DoneFile, ...]:
        """All outputs, or none: what had come before a failure is removed again, and what was under
        way when the job was stopped, for it may have arrived unacknowledged. Raises JobError."""
        attempt.staging = StagingProgress(self._clock)
        try:
            return self._stage_out(attempt, work, attempt.staging)
        finally:
            attempt.staging = None

    def _stage_out(
        self, attempt: Attempt, work: Workdir, progress: StagingProgress
    ) -> tuple[DoneFile, ...]:
        done: list[DoneFile] = []
        batch: list[tuple[int, OutputFile, int]] = []
        try:
            for index, file in enumerate(attempt.spec.outputs):
                with _field(f"outputs[{index}].name"):
                    if (source := self._output(file, work)) is None:
                        continue
                    progress.expect(file.name, os.fstat(source).st_size)
                    batch.append((index, file, source))
                    if not self._movers.serve(self.physical(attempt, file).scheme):
                        batch.pop()
                        try:
                            done.append(self._put_alone(attempt, file, source))
                            progress.done(file.name, done[-1].size)
                        finally:
                            os.close(source)
                if len(batch) == MOST_OPEN:
                    done += self._put_batch(attempt, batch)
            if batch:
                done += self._put_batch(attempt, batch)
        except Exception:
            self.delete([file.url for file in done])
            raise
        finally:
            for _, _, source in batch:
                os.close(source)
        order = {file.name: nr for nr, file in enumerate(attempt.spec.outputs)}
        return tuple(sorted(done, key=lambda file: order[file.name]))

    def put(self, attempt: Attempt, file: OutputFile, source: int) -> DoneFile:
        """Take one open file to storage. Raises JobError."""
        if self._movers.serve(self.physical(attempt, file).scheme):
            return self._movers.store(attempt, [self._to_store(attempt, 0, file, source)])[0]
        return self._put_alone(attempt, file, source)

    def _put_alone(self, attempt: Attempt, file: OutputFile, source: int) -> DoneFile:
        try:
            return self._put_at(attempt, self.physical(attempt, file), file, source)
        except JobError as error:
            if not self._goes_elsewhere(attempt, file, error):
                raise
        return self._put_elsewhere(attempt, file, source)

    def _put_batch(
        self, attempt: Attempt, batch: list[tuple[int, OutputFile, int]]
    ) -> list[DoneFile]:
        """Take open outputs to storage by their movers, and empty `batch`."""
        outputs = [self._to_store(attempt, *one) for one in batch]
        try:
            try:
                return self._movers.store(attempt, outputs)
            except JobError as error:
                if not all(self._goes_elsewhere(attempt, file, error) for _, file, _ in batch):
                    raise
            done: list[DoneFile] = []
            try:
                for index, file, source in batch:
                    with _field(f"outputs[{index}].name"):
                        done.append(self._put_elsewhere(attempt, file, source))
            except Exception:
                self.delete([file.url for file in done])
                raise
            return done
        finally:
            for _, _, source in batch:
                os.close(source)
            batch.clear()

    def _put_elsewhere(self, attempt: Attempt, file: OutputFile, source: int) -> DoneFile:
        url = self.physical(attempt, file, instead=self._alternative)
        if self._movers.serve(url.scheme):
            elsewhere = self._to_store(attempt, 0, file, source, instead=self._alternative)
            return self._movers.store(attempt, [elsewhere])[0]
        return self._put_at(attempt, url, file, source)

    def _put_at(self, attempt: Attempt, url: Url, file: OutputFile, source: int) -> DoneFile:
        def once(check: Check) -> Copied:
            os.lseek(source, 0, os.SEEK_SET)
            return self._transfers(url.scheme).put(source, url, check)

        try:
            copied = self._repeated(attempt, once, Code.STAGE_OUT_TIMEOUT)
        except JobError:
            if attempt.stopped is not None:
                # It may have arrived unacknowledged.
                self.delete([url.text])
            raise
        return DoneFile(
            name=file.name, url=url.text, size=copied.size, adler32=copied.adler32, md5=copied.md5
        )

    def _goes_elsewhere(self, attempt: Attempt, file: OutputFile, error: JobError) -> bool:
        """Whether an output that its own place did not take goes to the site's alternative."""
        if not self._alternative or file.scope or attempt.stopped is not None:
            return False
        attempt.note(f"{file.name} goes to {self._alternative} after: {error}")
        return True

    def _to_store(
        self, attempt: Attempt, index: int, file: OutputFile, source: int, instead: str = ""
    ) -> ToStore:
        url = self.physical(attempt, file, instead=instead)
        return ToStore(field=f"outputs[{index}].name", name=file.name, url=url, source=source)

    def delete(self, urls: Sequence[str]) -> list[str]:
        """Remove the files of an attempt that did not count. Returns those that could not be
        removed."""
        left = []
        moved = []
        for text in urls:
            try:
                url = _parsed(text)
                if self._movers.serve(url.scheme):
                    moved.append(text)
                else:
                    self._transfers(url.scheme).delete(url)
            except JobError:
                left.append(text)
        return left + self._movers.delete(moved)

    def examine(self, scheme: str, attempt: Attempt) -> Sequence[str]:
        """What the service behind `scheme` says of this site. Raises JobError."""
        return self._movers.examine(scheme, attempt)

    def close(self) -> None:
        """Nothing is staged any more: the movers may finish, and end."""
        self._movers.close()

    def _get(self, file: InputFile, work: Workdir, most: int, check: Check) -> int:
        """Stage one input in, of at most `most` bytes; what it takes of the disk."""
        with OSErrorsOn(Target.NODE, f"cannot make the input {file.name!r}"):
            try:
                into = work.create(file.name)
            except FileExistsError:
                # An earlier try left it.
                (work.directory / file.name).unlink()
                into = work.create(file.name)
        try:
            url = _parsed(file.url)
            within = bounded(file, into, most, check)
            copied = self._transfers(url.scheme).get(url, into, within, md5=file.md5 is not None)
            taken = charge(os.fstat(into))
        finally:
            os.close(into)
        compare(file, copied)
        return taken

    def _repeated(self, attempt: Attempt, once: Callable[[Check], T], late: Code) -> T:
        """Do a transfer, up to three times while its failure is transient; all within one limit,
        after which it fails with the code `late`. Raises JobError."""
        clock, limit_s = self._clock, self._bounds.staging_s
        deadline = clock.monotonic() + limit_s

        def check() -> None:
            attempt.check()
            if clock.monotonic() > deadline:
                raise JobError(late, f"a transfer took longer than {limit_s:.0f} s")

        pauses = iter(PAUSES_S)
        while True:
            try:
                return once(check)
            except JobError as error:
                attempt.check()
                pause_s = next(pauses, None)
                over = pause_s is None or clock.monotonic() + pause_s > deadline
                if over or not error.transient:
                    raise
                attempt.note(f"tries again after: {error}")
                clock.wait(attempt.wakeup, pause_s)

    def _output(self, file: OutputFile, work: Workdir) -> int | None:
        try:
            source = work.open(file.name)
        except FileNotFoundError:
            if file.optional:
                return None
            raise JobError(
                Code.MISSING_OUTPUT,
                f"the payload left no file {file.name!r}",
                remedy="does it write it into the directory it starts in? Or make it `optional`",
            ) from None
        except PermissionError:
            raise JobError(
                Code.OUTPUT_UNSAFE,
                f"the payload left {file.name!r}, but the pilot may not read it",
                remedy="let the payload end with `chmod u+r` on it, and u+x on its directories",
            ) from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_FILE:
                raise job_error(
                    error, f"cannot read the output {file.name!r}", Target.JOB
                ) from None
            what = str(error)
            if isinstance(error, OSError):
                what = f"{file.name!r} is a symbolic link, a socket or a device"
            raise JobError(
                Code.OUTPUT_UNSAFE,
                f"{what}, and only a regular file can be an output",
                remedy="let the payload copy the contents to a file of that name",
            ) from None
        size = os.fstat(source).st_size
        if size > self._bounds.output_bytes:
            os.close(source)
            raise JobError(
                Code.OUTPUT_TOO_LARGE,
                f"{file.name} has {size} bytes, this site takes {self._bounds.output_bytes}",
            )
        return source


def _list(file: InputFile, url: Url, work: Workdir) -> None:
    """Write the URL of an input where its contents would be."""
    with OSErrorsOn(Target.NODE, f"cannot make the input {file.name!r}"):
        into = work.create(file.name)
        try:
            os.write(into, f"{url.text}\n".encode())
        finally:
            os.close(into)


LOG = OutputFile(name=job.LOG, optional=True)


# Each job parses the site's default directory.
@lru_cache(100)
def _parsed(url: str) -> Url:
    try:
        return Url.parse(url)
    except AilurusError as error:
        raise JobError(Code.STORAGE_FORBIDDEN, error.message, remedy=error.remedy) from None


@contextlib.contextmanager
def _field(name: str) -> Iterator[None]:
    """Say which field of the job an error is about."""
    try:
        yield
    except JobError as error:
        error.field = error.field or name
        raise
