"""Staging: inputs into the job's directory, outputs from it to storage, measured on the way."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import TypeVar

from ailurus.protocol import job
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.messages import DoneFile
from ailurus.protocol.url import LONGEST, Url
from pilot.attempt import Attempt
from pilot.blame import OSErrorsOn, Target, job_error
from pilot.clock import SYSTEM, Clock
from pilot.ports import Check, Copied, JobError, Transfer
from pilot.process.usage import ENTRY_BYTES, charge
from pilot.site import Bounds
from pilot.workdir import SCRIPT, Workdir

T = TypeVar("T")
# How many undeclared files are counted, and how many are named.
MOST_COUNTED, MOST_NAMED = 1000, 5
REPORT_BYTES, FILE_BYTES = 6_000_000, 150
"""Of a report's files all together, and of one beside its name and URL: dispatchers take 8 MiB a
request, and a report that is longer would never arrive."""
# Before the second and the third try.
PAUSES_S = (0.5, 3.0)
# What opening a link, a socket or a device fails with.
_NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)


class Stage:
    """Moves the files of jobs with the transfers of this site."""

    def __init__(
        self,
        transfers: Callable[[str], Transfer],
        default_output: str,
        bounds: Bounds,
        logs: str = "failed",
        clock: Clock = SYSTEM,
    ) -> None:
        """`logs`: whose log.tgz is kept, see `site.Storage`."""
        self.logs = logs
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
                url = _parsed(file.url)
                self._transfers(url.scheme).allowed(url)
        named_bytes = 0
        for index, output in enumerate(attempt.spec.outputs):
            with _field(f"outputs[{index}].url"):
                url = self.physical(attempt.id, output)
                self._transfers(url.scheme).allowed(url)
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

    def physical(self, of: tuple[int, int], file: OutputFile) -> Url:
        """The URL of an attempt's output, which no other attempt has. Raises JobError if there is
        none."""
        directory = file.url or self._default
        if not directory:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"output {file.name!r} has no url and this site has no default storage",
                remedy="give the output a url, the site file `storage.default_output`, or a pilot without "
                "one --storage",
            )
        url = _parsed(directory).joined(f"{of[0]}.{of[1]}.{file.name}")
        if len(url.text) > LONGEST:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"the URL of output {file.name!r} is longer than {LONGEST} characters",
                remedy="shorten its directory, or the site file's `storage.default_output`",
            )
        return url

    def planned(self, of: tuple[int, int], spec: JobSpec) -> list[str]:
        """All that an attempt may leave in storage."""
        urls = []
        for file in (*spec.outputs, LOG):
            with contextlib.suppress(JobError):
                urls.append(self.physical(of, file).text)
        return urls

    def stage_in(self, attempt: Attempt, work: Workdir) -> None:
        # The room for inputs of undeclared size.
        left = attempt.spec.disk_mb << 20
        for index, file in enumerate(attempt.spec.inputs):
            with _field(f"inputs[{index}]"):
                get = partial(self._get, file, work, left if file.size is None else file.size)
                taken = self._repeated(attempt, get, Code.STAGE_IN_TIMEOUT)
                left -= taken if file.size is None else 0

    def stage_out(self, attempt: Attempt, work: Workdir) -> tuple[DoneFile, ...]:
        """All outputs, or none: what had come before a failure is removed again, and what was under
        way when the job was stopped, for it may have arrived unacknowledged. Raises JobError."""
        done: list[DoneFile] = []
        under_way = ""
        try:
            for index, file in enumerate(attempt.spec.outputs):
                with _field(f"outputs[{index}].name"):
                    source = self._output(file, work)
                    if source is None:
                        continue
                    try:
                        under_way = self.physical(attempt.id, file).text
                        done.append(self.put(attempt, file, source))
                        under_way = ""
                    finally:
                        os.close(source)
        except Exception:
            unacknowledged = [under_way] if under_way and attempt.stopped is not None else []
            self.delete([*(file.url for file in done), *unacknowledged])
            raise
        return tuple(done)

    def put(self, attempt: Attempt, file: OutputFile, source: int) -> DoneFile:
        url = self.physical(attempt.id, file)

        def once(check: Check) -> Copied:
            os.lseek(source, 0, os.SEEK_SET)
            return self._transfers(url.scheme).put(source, url, check)

        copied = self._repeated(attempt, once, Code.STAGE_OUT_TIMEOUT)
        return DoneFile(
            name=file.name, url=url.text, size=copied.size, adler32=copied.adler32, md5=copied.md5
        )

    def delete(self, urls: Sequence[str]) -> list[str]:
        """Remove the files of an attempt that did not count. Returns those that could not be
        removed."""
        left = []
        for text in urls:
            try:
                url = _parsed(text)
                self._transfers(url.scheme).delete(url)
            except JobError:
                left.append(text)
        return left

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
            bounded = _bounded(file, into, most, check)
            copied = self._transfers(url.scheme).get(url, into, bounded, md5=file.md5 is not None)
            taken = charge(os.fstat(into))
        finally:
            os.close(into)
        _compare(file, copied)
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


LOG = OutputFile(name=job.LOG, optional=True)


def undeclared(spec: JobSpec, work: Workdir) -> str:
    """What a payload left that goes with its directory, as a sentence; empty if there is
    nothing."""
    declared = {f"work/{file.name}" for file in spec.inputs}
    declared |= {f"work/{file.name}" for file in spec.outputs}
    if spec.script:
        declared.add(f"work/{SCRIPT}")
    found = (
        name.removeprefix("work/")
        for name, status in work.files(tmp=False)
        if name not in declared and stat.S_ISREG(status.st_mode)
    )
    if not (left := list(islice(found, MOST_COUNTED))):
        return ""
    names = [name if len(name) <= 60 else name[:59] + "…" for name in sorted(left)[:MOST_NAMED]]
    count = f"{len(left)} or more" if len(left) == MOST_COUNTED else f"{len(left)}"
    what = "1 file that was" if len(left) == 1 else f"{count} files that were"
    return f"left {what} not declared: {', '.join(names)}{', …' * (len(left) > MOST_NAMED)}"


# Each job parses the site's default directory.
@lru_cache(100)
def _parsed(url: str) -> Url:
    try:
        return Url.parse(url)
    except AilurusError as error:
        raise JobError(Code.STORAGE_FORBIDDEN, error.message, remedy=error.remedy) from None


def _bounded(file: InputFile, into: int, most: int, check: Check) -> Check:
    """`check`, and that an input takes no more of the node's disk than its size: that which is
    declared, or what the job's disk has left for it."""

    def both() -> None:
        check()
        if charge(os.fstat(into)) <= most + ENTRY_BYTES:
            return
        if file.size is not None:
            raise JobError(
                Code.STAGE_IN_FAILED, f"{file.name} has more than the {file.size} bytes declared"
            )
        raise JobError(
            Code.INPUTS_TOO_LARGE,
            f"{file.name} has more than the {most} bytes that the job's disk has left for inputs whose "
            "size is not declared",
            remedy="declare the `size` of the input, which counts beside `disk`, or ask for more "
            "`disk`",
        )

    return both


def _compare(file: InputFile, copied: Copied) -> None:
    """Hold what was declared against what came."""
    if file.size is not None and file.size != copied.size:
        raise JobError(
            Code.STAGE_IN_FAILED, f"{file.name} has {copied.size} bytes, declared are {file.size}"
        )
    if file.adler32 is not None and file.adler32 != copied.adler32:
        raise JobError(
            Code.GET_ADLER_MISMATCH,
            f"{file.name} has adler32 {copied.adler32}, declared is {file.adler32}",
            remedy="the file is damaged, or the job declares another one",
        )
    if file.md5 is not None and file.md5 != copied.md5:
        raise JobError(
            Code.GET_MD5_MISMATCH,
            f"{file.name} has md5 {copied.md5}, declared is {file.md5}",
            remedy="the file is damaged, or the job declares another one",
        )


@contextlib.contextmanager
def _field(name: str) -> Iterator[None]:
    """Say which field of the job an error is about."""
    try:
        yield
    except JobError as error:
        error.field = error.field or name
        raise
