"""Staging: inputs into the job's directory, outputs from it to storage, measured on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from ailurus.protocol import did, job, trees
from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.messages import DoneFile
from ailurus.protocol.url import Url
from pilot.attempt import Attempt
from pilot.blame import OSErrorsOn, Target
from pilot.clock import SYSTEM, Clock
from pilot.files.at_once import AnotherFailed, at_once
from pilot.files.destinations import Destinations, field_of, field_of_output, parsed
from pilot.files.in_process import InProcess
from pilot.files.input_space import Wanted
from pilot.files.leaving import Leaving, ToStore, leaving
from pilot.files.listing import SMALLER, check_amount, check_places, parts_of
from pilot.files.movers import Movers
from pilot.files.outputs import opened
from pilot.ports import Check, JobError, LeftBehind, Lister, Transfer
from pilot.progress import StagingProgress
from pilot.site import Bounds, Storage
from pilot.workdir import Workdir

REPORT_BYTES, FILE_BYTES = 6_000_000, 150
"""Of a report's files all together, and of one beside its name and URL: dispatchers take 8 MiB a
request, and a report that is longer would never arrive."""
SLOW_S = 5.0
"""A removal that fails after so long fails slowly."""
MOST_OPEN = 100
"""Outputs that are open at once for a mover."""


def _nothing(urls: list[str]) -> None:
    """Told of URLs."""


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
        self._parallel = storage.parallel
        self._own = InProcess(transfers, bounds, storage.parallel, clock)
        self.destinations = Destinations(default_output, storage)
        self._transfers = transfers
        self._bounds = bounds
        self._clock = clock

    @property
    def has_default(self) -> bool:
        return bool(self.destinations.default)

    def allowed(self, attempt: Attempt, spec: JobSpec | ItemSpec | None = None) -> None:
        """Raise JobError for a job whose files could not be staged later, so that it does not
        begin. `spec`: of an item of its instead."""
        spec = spec or attempt.spec
        for index, file in enumerate(spec.inputs):
            with field_of(f"inputs[{index}].url"):
                if not file.url:
                    raise JobError(
                        Code.NO_SUCH_FILE,
                        f"the jobs before it left no file that is {file.name!r}",
                        remedy="look at their outputs: an optional one need not be there",
                    )
                self._allow(url := parsed(file.url))
                if file.direct:
                    self._allow_direct(url)
        named_bytes = 0
        for index, output in enumerate(spec.outputs):
            with field_of(f"outputs[{index}].url"):
                url = self.destinations.physical(
                    attempt, replace(output, name=trees.sample(output))
                )
                self._allow(url)
                named_bytes += FILE_BYTES + len(output.name) + len(url.text.encode())
        _check_report(named_bytes, len(spec.outputs))
        declared = sum(file.size or 0 for file in spec.inputs)
        if 0 < self._bounds.inputs_bytes < declared:
            raise JobError(
                Code.INPUTS_TOO_LARGE,
                f"the inputs have {declared} bytes, this site takes {self._bounds.inputs_bytes}",
                field="inputs",
                remedy=SMALLER,
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

    def planned(self, attempt: Attempt) -> list[str]:
        """All that an attempt may leave in storage, as far as that can be told before its payload
        has ended: what globs and directories stand for, nobody knows yet."""
        outputs = (*attempt.spec.outputs, LOG)
        files = (replace(file, name=trees.effective(file)) for file in outputs)
        return self.destinations.urls(
            attempt, [one for one in files if not trees.is_many(one.name)]
        )

    def stage_in(self, attempt: Attempt, work: Workdir) -> None:
        """Bring all inputs into the job's directory. Raises JobError."""
        attempt.staging = StagingProgress(self._clock)
        try:
            self._stage_in(attempt, attempt.spec, work)
        finally:
            attempt.staging = None

    def bring(self, attempt: Attempt, work: Workdir, file: InputFile) -> None:
        """Bring one more input into the job's directory, while its payloads run. Raises JobError,
        and leaves nothing then."""
        name = trees.place(file)
        if work.is_taken(name):
            raise JobError(
                Code.BAD_FILE_NAME,
                f"where the input {file.name!r} belongs a payload of the job has made something",
                remedy="give it another name",
            )
        try:
            self._stage_in(attempt, replace(attempt.spec, inputs=(file,)), work)
        except JobError:
            work.remove(name)
            raise

    def _stage_in(self, attempt: Attempt, spec: JobSpec, work: Workdir) -> None:
        inputs = spec.inputs
        wanted = [
            one
            for index, file in enumerate(inputs)
            for one in self._expanded(index, file, attempt, work)
        ]
        check_places(spec, wanted)
        known = check_amount(wanted, self._bounds)
        # Bytes for inputs of undeclared size.
        left = spec.disk_mb << 20
        if self._bounds.inputs_bytes:
            left = min(left, self._bounds.inputs_bytes - known)
        own: list[Wanted] = []
        moved: list[Wanted] = []
        for one in wanted:
            (moved if self._movers.serve(one.url.scheme) else own).append(one)
        left = self._own.fetch(attempt, work, own, left)
        left -= self._movers.fetch(attempt, work, moved, left)
        for index, file in enumerate(inputs):
            if file.unpack:
                with field_of(f"inputs[{index}]"):
                    left -= self._unpacked(file, work, left, attempt.check)

    def _expanded(
        self, index: int, file: InputFile, attempt: Attempt, work: Workdir
    ) -> list[Wanted]:
        """The files that an input stands for. The URL of one that is read `direct` is written
        here."""
        field = f"inputs[{index}]"
        with field_of(field):
            url = parsed(file.url)
            if file.direct:
                _list(file, url, work)
                return []
            if self._movers.serve(url.scheme):
                return self._movers.expanded(index, file, url, attempt)
            if not trees.is_listed(url):
                return [Wanted(field=field, name=file.name, url=url, file=file)]
            transfer = self._own.transfer(attempt, url)
            if not isinstance(transfer, Lister):
                raise JobError(
                    Code.NO_PROTOCOL,
                    f"{url} names the files of a directory, and this site lists none by {url.scheme}",
                    remedy="name the files, or let the site file give the scheme to gfal2 "
                    "(`storage.plugins`)",
                )
            found = transfer.listed(url, attempt.check)
            return parts_of(file, url, found, field, self._allow)

    def _unpacked(self, file: InputFile, work: Workdir, left: int, check: Check) -> int:
        # Late: most jobs have no archives.
        from pilot.files.unpack import unpack

        return unpack(file.name, trees.place(file), work, left, check)

    def stage_out(
        self, attempt: Attempt, work: Workdir, announce: Callable[[list[str]], None] = _nothing
    ) -> tuple[DoneFile, ...]:
        """All outputs, or none: what had come before a failure is removed again, and what was under
        way when the job was stopped, for it may have arrived unacknowledged. `announce` is told all
        URLs first, where globs, directories and items leave more than was `planned`. Raises
        JobError."""
        attempt.staging = StagingProgress(self._clock)
        try:
            files = leaving(attempt.spec, work, attempt.check)
            if attempt.of_items or any(trees.is_many(one.name) for one in attempt.spec.outputs):
                self._check_named(attempt, files)
                announce(self.destinations.urls(attempt, [*(one.file for one in files), LOG]))
            return self._stage_out(attempt, work, files, attempt.staging)
        finally:
            attempt.staging = None

    def _stage_out(
        self,
        attempt: Attempt,
        work: Workdir,
        files: Sequence[Leaving],
        progress: StagingProgress,
    ) -> tuple[DoneFile, ...]:
        done: list[DoneFile] = []

        def leave(one: Leaving, check: Check) -> None:
            with field_of_output(attempt, one.index, one.file.name):
                source = opened(one, attempt.spec, work, self._bounds, attempt.check)
                if source is None:
                    return
                try:
                    progress.expect(one.file.name, os.fstat(source).st_size)
                    done.append(self._put_alone(attempt, one.file, source, check))
                    progress.done(one.file.name, done[-1].size)
                finally:
                    os.close(source)

        own: list[Leaving] = []
        moved: list[Leaving] = []
        for one in files:
            physical = self.destinations.physical(attempt, one.file)
            (moved if self._movers.serve(physical.scheme) else own).append(one)
        try:
            at_once(own, leave, self._parallel, clock=self._clock)
            self._put_moved(attempt, work, moved, done)
        except Exception:
            attempt.leftovers += self.delete([file.url for file in done])
            raise
        order = {one.file.name: nr for nr, one in enumerate(files)}
        found = sorted(done, key=lambda file: order[file.name])
        if not attempt.of_items:
            return tuple(found)
        return tuple(replace(file, item=attempt.of_items.get(file.name)) for file in found)

    def _put_moved(
        self, attempt: Attempt, work: Workdir, files: Sequence[Leaving], done: list[DoneFile]
    ) -> None:
        """Take outputs to storage by their movers, and add them to `done`."""
        batch: list[tuple[int, OutputFile, int]] = []
        try:
            for one in files:
                with field_of_output(attempt, one.index, one.file.name):
                    source = opened(one, attempt.spec, work, self._bounds, attempt.check)
                    if source is None:
                        continue
                    batch.append((one.index, one.file, source))
                    if attempt.staging is not None:
                        attempt.staging.expect(one.file.name, os.fstat(source).st_size)
                if len(batch) == MOST_OPEN:
                    done += self._put_batch(attempt, batch)
            if batch:
                done += self._put_batch(attempt, batch)
        finally:
            for _, _, source in batch:
                os.close(source)

    def _check_named(self, attempt: Attempt, files: Sequence[Leaving]) -> None:
        """Raise JobError for outputs that the site does not take, or that no report can name."""
        named_bytes = 0
        for one in files:
            with field_of_output(attempt, one.index, one.file.name):
                self._allow(url := self.destinations.physical(attempt, one.file))
                named_bytes += FILE_BYTES + len(one.file.name) + len(url.text.encode())
        _check_report(named_bytes, len(files))

    def takes(self, attempt: Attempt, work: Workdir, one: Leaving) -> bool:
        """Whether a file that a payload left is there. Raises JobError for one not to be taken."""
        source = opened(one, attempt.spec, work, self._bounds, attempt.check)
        if source is not None:
            os.close(source)
        return source is not None

    def put(self, attempt: Attempt, file: OutputFile, source: int) -> DoneFile:
        """Take one open file to storage. Raises JobError."""
        one = self._to_store(attempt, 0, file, source)
        if self._movers.serve(one.url.scheme):
            return self._movers.store(attempt, [one])[0]
        return self._put_alone(attempt, file, source)

    def _put_alone(
        self, attempt: Attempt, file: OutputFile, source: int, another: Check = lambda: None
    ) -> DoneFile:
        """`another` raises once another output has failed."""
        one = self._to_store(attempt, 0, file, source)
        try:
            return self._put_own(attempt, one, self._patience_s(file), another)
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
                patience_s = min(self._patience_s(file) for _, file, _ in batch)
                return self._movers.store(attempt, outputs, patience_s)
            except JobError as error:
                if not all(self._goes_elsewhere(attempt, file, error) for _, file, _ in batch):
                    raise
            done: list[DoneFile] = []
            try:
                for index, file, source in batch:
                    with field_of_output(attempt, index, file.name):
                        done.append(self._put_elsewhere(attempt, file, source))
            except Exception:
                attempt.leftovers += self.delete([file.url for file in done])
                raise
            return done
        finally:
            for _, _, source in batch:
                os.close(source)
            batch.clear()

    def _put_elsewhere(self, attempt: Attempt, file: OutputFile, source: int) -> DoneFile:
        one = self._to_store(attempt, 0, file, source, instead=self.destinations.alternative)
        if self._movers.serve(one.url.scheme):
            return self._movers.store(attempt, [one], self._bounds.outage_s)[0]
        return self._put_own(attempt, one, self._bounds.outage_s)

    def _put_own(
        self, attempt: Attempt, one: ToStore, outage_s: float, another: Check = lambda: None
    ) -> DoneFile:
        try:
            return self._own.put(attempt, one, outage_s, another)
        except (JobError, AnotherFailed) as error:
            late = isinstance(error, JobError) and error.code is Code.STAGE_OUT_TIMEOUT
            unsure = isinstance(error, AnotherFailed | LeftBehind)
            if late or unsure or attempt.stopped is not None:
                # It may have arrived unacknowledged, or in part.
                attempt.leftovers += self.delete([one.url.text])
            raise

    def _patience_s(self, file: OutputFile) -> float:
        """For how long an output waits for its own place. A log, and what has another, does not."""
        elsewhere = self.destinations.alternative and not file.scope
        return 0.0 if elsewhere or file is LOG else self._bounds.outage_s

    def _goes_elsewhere(self, attempt: Attempt, file: OutputFile, error: JobError) -> bool:
        """Whether an output that its own place did not take goes to the site's alternative."""
        if not self.destinations.alternative or file.scope or attempt.stopped is not None:
            return False
        attempt.note(f"{file.name} goes to {self.destinations.alternative} after: {error}")
        return True

    def _to_store(
        self, attempt: Attempt, index: int, file: OutputFile, source: int, instead: str = ""
    ) -> ToStore:
        url = self.destinations.physical(attempt, file, instead=instead)
        return ToStore(field=f"outputs[{index}].name", name=file.name, url=url, source=source)

    def delete(self, urls: Sequence[str]) -> list[str]:
        """Remove the files of an attempt that did not count. Returns those that could not be
        removed. A server that failed slowly is asked for no more of them now: each would take as
        long."""
        left = []
        moved = []
        slow: set[tuple[str, str, int]] = set()
        for text in urls:
            began = self._clock.monotonic()
            try:
                url = parsed(text)
                if self._movers.serve(url.scheme):
                    moved.append(text)
                elif url.origin in slow:
                    left.append(text)
                else:
                    self._transfers(url.scheme).delete(url)
            except JobError:
                left.append(text)
                if self._clock.monotonic() - began > SLOW_S:
                    slow.add(parsed(text).origin)
        return left + self._movers.delete(moved)

    def examine(self, scheme: str, attempt: Attempt) -> Sequence[str]:
        """What the service behind `scheme` says of this site. Raises JobError."""
        return self._movers.examine(scheme, attempt)

    def close(self) -> None:
        """Nothing is staged any more: the movers may finish, and end."""
        self._movers.close()


def _check_report(named_bytes: int, files: int) -> None:
    if named_bytes > REPORT_BYTES:
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"names and URLs of the {files} outputs are longer than the report of a job may be: "
            f"{named_bytes} bytes, of {REPORT_BYTES}",
            field="outputs",
            remedy="give them shorter directories, or pack them into one file",
        )


def _list(file: InputFile, url: Url, work: Workdir) -> None:
    """Write the URL of an input where its contents would be."""
    with OSErrorsOn(Target.NODE, f"cannot make the input {file.name!r}"):
        into = work.create(file.name)
        try:
            os.write(into, f"{url.text}\n".encode())
        finally:
            os.close(into)


LOG = OutputFile(name=job.LOG, optional=True)
