"""Files that transfer libraries move: a job's in batches, each with its own end."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import asdict, replace

import plugins
from ailurus.protocol.did import SCHEME as RUCIO
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import InputFile
from ailurus.protocol.messages import DoneFile
from ailurus.protocol.trees import is_listed
from ailurus.protocol.url import Url
from pilot.attempt import Attempt
from pilot.blame import OSErrorsOn, Target
from pilot.clock import SYSTEM, Clock
from pilot.files.declared import compare
from pilot.files.delegated_pools import CredentialFiles, with_variables, written
from pilot.files.destinations import field_of
from pilot.files.input_space import InputSpace, Wanted
from pilot.files.leaving import ToStore
from pilot.files.listing import check_size, parts_of
from pilot.files.tries import PAUSES_S, pauses
from pilot.ports import Check, Copied, JobError, Moved, NotMoved, ToGet, ToPut
from pilot.site import Bounds, Storage
from pilot.workdir import Workdir, remove_tree

if TYPE_CHECKING:
    # Late at run time: most pilots need none of it.
    from pilot.process.batch import End, Watch
    from pilot.process.children import Launch
    from pilot.process.mover_pool import MoverPool

T = TypeVar("T")
_TIMEOUTS = (Code.STAGE_IN_TIMEOUT, Code.STAGE_OUT_TIMEOUT)
DELETED_AT_ONCE = 100
"""Files of one call of a mover, which has as long for few as for many."""
DELETE_S = 120.0
"""So long after its beginning a removal begins no further call; the rest is left."""


class Movers:
    """The movers of this site, by URL scheme."""

    def __init__(
        self,
        storage: Storage,
        bounds: Bounds,
        launch: Callable[[], Launch] | None = None,
        clock: Clock = SYSTEM,
        ca: str = "",
    ) -> None:
        """`launch` None: this pilot moves nothing by them, as one that only sends old reports.
        `ca`: a file of the authorities that this pilot trusts; empty: the system's."""
        self._storage, self._bounds, self._launch, self._clock = storage, bounds, launch, clock
        self._ca = ca
        self._pools: dict[str, MoverPool] = {}
        self._numbers = itertools.count(1)
        # Credentials of users, while files of theirs are moved.
        self._written: dict[Attempt, CredentialFiles] = {}
        self._known = frozenset(plugins.TABLE.get("mover", ()))

    def serve(self, scheme: str) -> bool:
        """Whether files of `scheme` are moved by a mover."""
        name = self._storage.plugin(scheme)
        if name in self._known:
            return True
        # Entry points cost 45 ms, so they are read only for what is nowhere else.
        return name not in plugins.TABLE["data"] and name in plugins.names("mover")

    def allowed(self, url: Url) -> None:
        """Raise JobError(STORAGE_FORBIDDEN) if the site does not let jobs use `url`."""
        if url.scheme == RUCIO and (self._storage.rucio or self._storage.rse):
            return
        try:
            prefixes = [_place(Url.parse(prefix)) for prefix in self._prefixes(url)]
        except AilurusError as error:
            raise JobError(
                Code.SERVICE_UNAVAILABLE, f"storage.allow: {error.message}", remedy=error.remedy
            ) from None
        place = _place(url)
        if place is None or not any(place.within(one) for one in prefixes if one is not None):
            remedy = "use the site's storage, or ask its admin to allow that prefix"
            if url.scheme == RUCIO:
                remedy = "use a site with Rucio: `storage.rse` and `storage.rucio` of its site file"
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"{url} is not in this site's storage.allow",
                remedy=remedy,
            )

    def _prefixes(self, url: Url) -> Sequence[str]:
        """Of the URLs that the site lets jobs use, by the scheme of `url`: those of http are the
        same whoever moves its files."""
        web = url.web.scheme in {"http", "https"}
        return (*self._storage.allow, *(self._storage.http_allow if web else ()))

    def examine(self, scheme: str, attempt: Attempt) -> Sequence[str]:
        """What the service behind `scheme` says of this site; nothing, where its plugin asks none.
        Raises JobError."""
        return self._pool(scheme).examine(self.watch(attempt))

    def close(self) -> None:
        """End the children that no job uses."""
        for pool in list(self._pools.values()):
            pool.close()

    def expanded(self, nr: int, file: InputFile, url: Url, attempt: Attempt) -> list[Wanted]:
        """The files that an input names: itself, or those of a data set, which come into a
        directory of its name. Raises JobError."""
        field = f"inputs[{nr}]"
        if url.scheme != RUCIO and not is_listed(url):
            return [Wanted(field=field, name=file.name, url=url, file=file)]
        with self._pools_of(attempt) as pool_of:
            found = pool_of(url.scheme).expand(url.text, self.watch(attempt))
        if len(found) == 1 and found[0].url.partition("?")[0] == url.text.partition("?")[0]:
            if file.size is None:
                check_size(url, found[0], field)
            known = replace(file, size=found[0].size) if file.size is None else file
            return [Wanted(field=field, name=file.name, url=url, file=known)]
        return parts_of(file, url, found, field, self.allowed)

    def fetch(self, attempt: Attempt, work: Workdir, wanted: Sequence[Wanted], left: int) -> int:
        """Bring files into the job's directory; those of undeclared size have `left` bytes.
        Returns what these took. Raises JobError."""
        if not wanted:
            return 0
        assert self._launch is not None  # noqa: S101 - a pilot with jobs has one
        incoming = self._launch().directory / f"files-{next(self._numbers)}"
        with OSErrorsOn(Target.NODE, "cannot make the directory for inputs"):
            incoming.mkdir(mode=0o700, parents=True)
            known = sum(one.file.size or 0 for one in wanted)
            if known > (free := shutil.disk_usage(incoming).free):
                raise JobError(
                    Code.NO_LOCAL_SPACE,
                    f"the inputs have {known} bytes, and {free} are free on this node",
                    remedy="free space there; the job is tried again elsewhere",
                )
        space = InputSpace(wanted, left, attempt.staging)
        for one in wanted:
            if attempt.staging is not None:
                attempt.staging.expect(one.name, one.file.size)
        taken = 0
        try:
            with self._pools_of(attempt) as pool_of:
                for pool, group in _grouped([one.url for one in wanted], pool_of).items():
                    orders = [_order(key, wanted[key], incoming) for key in group]
                    get = partial(pool.get, watch=self.watch(attempt, space.check))
                    for key, moved in self._repeated(attempt, orders, get, wanted).items():
                        # A mover need not have told of all that came.
                        with field_of(wanted[key].field):
                            space.check(key, moved.size)
                        _adopt(wanted[key], moved, incoming / str(key), work)
                        taken += moved.size if wanted[key].file.size is None else 0
                        if attempt.staging is not None:
                            attempt.staging.done(wanted[key].name, moved.size)
        finally:
            remove_tree(incoming)
        return taken

    def store(
        self, attempt: Attempt, outputs: Sequence[ToStore], outage_s: float = 0.0
    ) -> list[DoneFile]:
        """Take outputs to storage, which may be away for `outage_s`. Raises JobError of the first
        that did not arrive; those that did are removed again."""
        done: dict[int, DoneFile] = {}
        # Of what is known not to be there by us: another's file may have the name.
        refused: set[int] = set()
        # Of what may be there in part.
        left: set[int] = set()

        def put(files: Sequence[ToPut], pool: MoverPool) -> dict[int, End]:
            # Or this try would find its own name taken.
            self._delete([file.url for file in files if file.key in left], pool_of)
            sources = {file.key: outputs[file.key].source for file in files}
            ends = pool.put(files, sources, self.watch(attempt, _progress_of(attempt, outputs)))
            for key, end in ends.items():
                if isinstance(end, Moved):
                    done[key] = _done(outputs[key], end)
                elif end.left:
                    left.add(key)
                elif end.code not in _TIMEOUTS:
                    refused.add(key)
            return ends

        with self._pools_of(attempt) as pool_of:
            try:
                for pool, group in _grouped([one.url for one in outputs], pool_of).items():
                    orders = [_parcel(key, outputs[key]) for key in group]
                    call = partial(put, pool=pool)
                    for key, moved in self._repeated(
                        attempt, orders, call, outputs, outage_s
                    ).items():
                        _check_size(outputs[key], moved)
                        if attempt.staging is not None:
                            attempt.staging.done(outputs[key].name, moved.size)
            except BaseException:
                # What was under way may have arrived unacknowledged.
                unsure = set(range(len(outputs))) if attempt.stopped is not None else {*done, *left}
                unsure -= refused - done.keys() - left
                urls = [outputs[key].url.text for key in sorted(unsure)]
                attempt.leftovers += self._delete(urls, pool_of)
                raise
        return [done[key] for key in range(len(outputs))]

    def delete(self, urls: Sequence[str]) -> list[str]:
        """Remove files, as the site; those that are left."""
        return self._delete(urls, self._pool)

    def _delete(self, urls: Sequence[str], pool_of: Callable[[str], MoverPool]) -> list[str]:
        left: list[str] = []
        by_scheme: dict[str, list[str]] = {}
        for url in urls:
            by_scheme.setdefault(url.partition("://")[0], []).append(url)
        for scheme, todo in by_scheme.items():
            until = self._clock.monotonic() + DELETE_S
            # In parts, so that what is gone by then need not be asked for again.
            with suppress(JobError):
                pool = pool_of(scheme)
                while todo and self._clock.monotonic() < until:
                    left += pool.delete(todo[:DELETED_AT_ONCE], self.watch(None))
                    del todo[:DELETED_AT_ONCE]
            left += todo
        return left

    def watch(
        self, attempt: Attempt | None, progress: Callable[[int, int], None] | None = None
    ) -> Watch:
        """What ends a transfer of `attempt`; None: nothing but its time."""
        from pilot.process.batch import Watch

        check: Check = (lambda: None) if attempt is None else attempt.check
        return Watch(
            check=check,
            wakeup=threading.Event() if attempt is None else attempt.wakeup,
            time_s=self._bounds.time_s,
            progress=progress or (lambda key, moved_bytes: None),
        )

    def _repeated(
        self,
        attempt: Attempt,
        orders: Sequence[Any],
        call: Callable[[Sequence[Any]], dict[int, End]],
        named: Sequence[Wanted] | Sequence[ToStore],
        outage_s: float = 0.0,
    ) -> dict[int, Moved]:
        """Move files, up to three times those whose failure may pass, or until their storage has
        been away for `outage_s`. Raises JobError of the first that did not come."""
        arrived: dict[int, Moved] = {}
        todo = list(orders)
        left = pauses(self._clock, outage_s)
        timeouts = () if outage_s else _TIMEOUTS
        for nr in itertools.count(1):
            ends = call(todo)
            failed = {key: end for key, end in ends.items() if isinstance(end, NotMoved)}
            arrived |= {key: end for key, end in ends.items() if isinstance(end, Moved)}
            if not failed:
                break
            # What a mover dies of is no outage.
            final = [
                one
                for one in failed.values()
                if not one.transient or one.code in timeouts or (one.died and nr > len(PAUSES_S))
            ]
            pause_s = next(left, None)
            if final or pause_s is None:
                raise _error(min(final or failed.values(), key=lambda one: one.key), named)
            first = min(failed.values(), key=lambda one: one.key)
            attempt.note(f"tries {len(failed)} files again after: {first.message}")
            attempt.pause(pause_s)
            attempt.check()
            attempt.renew()
            if (theirs := self._written.get(attempt)) is not None:
                theirs.renew(attempt.credentials)
            todo = [order for order in todo if order.key in failed]
        return arrived

    def _pool(self, scheme: str) -> MoverPool:
        name = self._storage.plugin(scheme)
        if self._launch is None:
            what = f"this pilot starts no mover {name}"
            raise JobError(Code.SERVICE_UNAVAILABLE, what, remedy="start one that runs jobs")
        if name not in self._pools:
            # Two threads may make one; the first counts.
            self._pools.setdefault(name, self._made(name))
        return self._pools[name]

    @contextmanager
    def _pools_of(self, attempt: Attempt) -> Iterator[Callable[[str], MoverPool]]:
        """The pool of a URL scheme for an attempt's files: the site's, or, with credentials of its
        user, one that has these instead, and ends with the block."""
        if not attempt.credentials or self._launch is None:
            yield self._pool
            return
        made: dict[str, MoverPool] = {}
        folder = self._launch().directory / f"credentials-{next(self._numbers)}"
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with written(attempt.credentials, folder) as theirs:
            self._written[attempt] = theirs

            def pool_of(scheme: str) -> MoverPool:
                name = self._storage.plugin(scheme)
                if name not in made:
                    made[name] = self._made(name, theirs.named)
                return made[name]

            try:
                yield pool_of
            finally:
                del self._written[attempt]
                for pool in made.values():
                    pool.close()

    def _options(self, name: str) -> dict[str, Any]:
        options = dict(self._storage.options_of(name))
        if name == RUCIO:
            options.setdefault("rse", self._storage.rse)
            options.setdefault("protocols", asdict(self._storage.protocols))
            options.setdefault("plugins", self._storage.plugins)
            options.setdefault("options", self._storage.all_options())
            options.setdefault("roots", self._storage.roots)
            options.setdefault("http_allow", self._storage.http_allow)
            options.setdefault("http_proxy", self._storage.http_proxy)
            options.setdefault("ca", self._ca)
        return options

    def _made(self, name: str, credentials: Mapping[str, str] | None = None) -> MoverPool:
        from pilot.process.mover_pool import MoverPool

        assert self._launch is not None  # noqa: S101 - the callers looked
        launch = with_variables(self._launch(), self._storage, credentials or {})
        return MoverPool(name, self._options(name), launch, self._clock, credentials)


def _place(url: Url) -> Url | None:
    """What a URL names, with all of its path in its place: SRM's servers are told it in the query,
    too (`?SFN=/path`). None: a server may take it for something else."""
    if url.scheme == "srm" and url.query is not None:
        word, _, path = url.query.partition("=")
        if word != "SFN" or not path.startswith("/") or {*path} & {*"?&"}:
            return None
        url = replace(url, path=path, query=None)
    return None if url.userinfo is not None or url.climbs else url.web


def _grouped(
    urls: Sequence[Url], pool_of: Callable[[str], MoverPool]
) -> Mapping[MoverPool, list[int]]:
    """The numbers of URLs by the pool that moves their files."""
    groups: dict[MoverPool, list[int]] = {}
    for key, url in enumerate(urls):
        groups.setdefault(pool_of(url.scheme), []).append(key)
    return groups


def _progress_of(attempt: Attempt, files: Sequence[ToStore]) -> Callable[[int, int], None]:
    """What notes how far outputs are, for the attempt's heartbeats."""

    def note(key: int, moved_bytes: int) -> None:
        if attempt.staging is not None:
            attempt.staging.moved(files[key].name, moved_bytes)

    return note


def _order(key: int, one: Wanted, incoming: Path) -> ToGet:
    return ToGet(
        key=key,
        url=one.url.text,
        path=str(incoming / str(key)),
        size=one.file.size,
        adler32=one.file.adler32,
        md5=one.file.md5,
    )


def _parcel(key: int, one: ToStore) -> ToPut:
    return ToPut(key=key, url=one.url.text, path="", size=os.fstat(one.source).st_size)


def _check_size(one: ToStore, moved: Moved) -> None:
    """Raise JobError if not all of an output arrived."""
    if moved.size != (size := os.fstat(one.source).st_size):
        raise JobError(
            Code.STAGE_OUT_FAILED,
            f"{one.name} has {size} bytes, and {moved.size} arrived",
            field=one.field,
            remedy="the job is tried again",
            transient=True,
        )


def _adopt(wanted: Wanted, moved: Moved, incoming: Path, work: Workdir) -> None:
    """Take a file that came into the job's directory, if it is what was told and declared. Raises
    JobError."""
    with OSErrorsOn(Target.NODE, f"cannot make the input {wanted.name!r}"):
        if (size := incoming.lstat().st_size) != moved.size:
            raise JobError(
                Code.STAGE_IN_FAILED,
                f"{wanted.name} has {size} bytes, and the mover said {moved.size}",
                field=wanted.field,
                remedy="the job is tried again",
            )
        try:
            compare(wanted.file, Copied(size=size, adler32=moved.adler32, md5=moved.md5))
            work.adopt(incoming, wanted.name)
        except JobError as error:
            error.field = wanted.field
            raise
        except ValueError as error:
            remedy = "give the input another name"
            raise JobError(
                Code.STAGE_IN_FAILED, str(error), field=wanted.field, remedy=remedy
            ) from None


def _done(output: ToStore, moved: Moved) -> DoneFile:
    return DoneFile(
        name=output.name,
        url=output.url.text,
        size=moved.size,
        adler32=moved.adler32,
        md5=moved.md5,
    )


def _error(end: NotMoved, named: Sequence[Wanted] | Sequence[ToStore]) -> JobError:
    one = named[end.key]
    message = f"{one.name}: {end.message}"
    return JobError(end.code, message, remedy=end.remedy, field=one.field, transient=end.transient)
