"""`root:` and `roots:` URLs by XRootD's own client library: one process and its kept connections
for all files.

Checksums are compared end to end where the server has adler32; elsewhere ours is computed and the
size compared. A server computes a few at a time, and lets others wait half a minute: it is asked
for one of an upload at a time, and for none of a download whose checksum is known. An upload
persists on successful close; what a killed uploader left is marked as pending, and replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.trees import listing, matches_pieces
from ailurus.protocol.url import Url
from pilot.ports import (
    Found,
    JobError,
    LeftBehind,
    Moved,
    Mover,
    NotMoved,
    Progress,
    Tell,
    ToGet,
    ToPut,
)
from plugins.data.moving import (
    Failure,
    GridOptions,
    Way,
    drop,
    failure,
    few,
    local_failure,
    measured,
    not_moved,
    padded,
    set_environment,
    system_module,
)

SERVER, LOCAL, CHECKSUM = 400, 402, 305
"""Codes of XrdCl: the server refused (its errno says why); this node did; checksums differ."""
EXISTS, MISSING = 3018, 3011
_UNSUPPORTED = 3013
CLEARING_S = 5
"""How long the removal of a broken upload may take."""
# Flags of a stat; what to list a directory with (kXR_dstat); what to ask for (kXR_Qcksum).
_POSC_PENDING, _DIRECTORY = 64, 2
_WITH_SIZES, _CHECKSUM_QUERY = 1, 3

_BY_CODE = {
    14: Failure.FAILED,
    16: Failure.MISSING,
    101: Failure.UNREACHABLE,
    102: Failure.UNREACHABLE,
    103: Failure.STALLED,
    104: Failure.FAILED,
    107: Failure.FAILED,
    108: Failure.UNREACHABLE,
    109: Failure.FAILED,
    110: Failure.UNTRUSTED,
    202: Failure.UNREACHABLE,
    203: Failure.UNKNOWN_USER,
    204: Failure.UNKNOWN_USER,
    206: Failure.STALLED,
    208: Failure.STALLED,
    CHECKSUM: Failure.WRONG,
}
"""XrdCl's codes (XrdClStatus.hh)."""

_BY_SERVER = {
    3000: Failure.BAD_NAME,
    3002: Failure.BAD_NAME,
    3003: Failure.BUSY,
    3005: Failure.FAILED,
    3007: Failure.FAILED,
    3009: Failure.FULL,
    3010: Failure.DENIED,
    MISSING: Failure.MISSING,
    3012: Failure.FAILED,
    _UNSUPPORTED: Failure.UNSUPPORTED,
    3014: Failure.UNREACHABLE,
    3015: Failure.NOT_A_FILE,
    3016: Failure.NOT_A_FILE,
    EXISTS: Failure.EXISTS,
    3019: Failure.WRONG,
    3020: Failure.BUSY,
    3021: Failure.FULL,
    3024: Failure.BUSY,
    3025: Failure.DENIED,
    3028: Failure.UNSUPPORTED,
    3029: Failure.MISSING,
    3030: Failure.UNKNOWN_USER,
    3034: Failure.STALLED,
    3035: Failure.STALLED,
}
"""Codes of the protocol (kXR_…, XProtocol.hh)."""


def kind(code: int, errno: int) -> Failure:
    """What a status of XrdCl says is wrong."""
    if code == SERVER:
        return _BY_SERVER.get(errno, Failure.FAILED)
    return _BY_CODE.get(code, Failure.FAILED)


def explained(way: Way, url: Url, status: Any) -> JobError:
    """The error of a file, by its status."""
    if status.code == LOCAL:
        return local_failure(status.errno, f"the node's side of {url}")
    return failure(way, kind(status.code, status.errno), url, status.message)


def settings(stall_s: int) -> dict[str, int]:
    """XrdCl's settings by which a server that is away or silent is noticed, in seconds: by default
    that takes half an hour."""
    return {
        "ConnectionWindow": min(stall_s, 30),
        "ConnectionRetry": 1,
        # So long it answers for a server that was away without asking it.
        "StreamErrorWindow": 0,
        "StreamTimeout": stall_s,
        "RequestTimeout": stall_s,
        "TimeoutResolution": max(1, min(stall_s // 4, 15)),
    }


class XRootD(Mover):
    """Moves files by one copy process a batch."""

    class Options(GridOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """As of all the grid's libraries."""

    def __init__(self, options: Options) -> None:
        self._options = options
        set_environment(options)
        self._client = system_module("XRootD.client")
        for name, value in settings(options.stall_s).items():
            self._client.EnvPutInt(name, value)
        self._without_checksums: set[tuple[str, str, int]] = set()
        self.asking_for_checksum = threading.Lock()

    def get(self, files: Sequence[ToGet], tell: Tell) -> None:
        set_environment(self._options)
        _Batch(self, Way.IN, tell).run(files)

    def put(self, files: Sequence[ToPut], tell: Tell) -> None:
        set_environment(self._options)
        _Batch(self, Way.OUT, tell).run(files)

    def delete(self, urls: Sequence[str]) -> Mapping[str, str]:
        set_environment(self._options)
        left = {}
        for text in urls:
            try:
                url = Url.parse(text)
                status, _ = self.server(url).rm(path_of(url))
            except AilurusError as error:
                left[text] = str(error)
                continue
            if not status.ok and kind(status.code, status.errno) is not Failure.MISSING:
                left[text] = str(explained(Way.OUT, url, status))
        return left

    def expand(self, url: str) -> Sequence[Found]:
        set_environment(self._options)
        top, pieces = listing(Url.parse(url))
        status, info = self.server(top).stat(path_of(top))
        if not status.ok:
            raise explained(Way.IN, top, status)
        if not info.flags & _DIRECTORY:
            return [Found(name=top.name, url=url, size=info.size)]
        return few(self._beneath(top, "", pieces), url)

    def _beneath(self, directory: Url, above: str, pieces: Sequence[str]) -> Iterator[Found]:
        status, entries = self.server(directory).dirlist(path_of(directory), _WITH_SIZES)
        if not status.ok:
            raise explained(Way.IN, directory, status)
        for entry in sorted(entries, key=lambda one: str(one.name)):
            if entry.name in {".", ".."} or "/" in entry.name:
                continue
            url, name = directory.joined(entry.name), f"{above}{entry.name}"
            if entry.statinfo is not None and entry.statinfo.flags & _DIRECTORY:
                if not pieces:
                    yield from self._beneath(url, f"{name}/", pieces)
            elif not pieces or matches_pieces(pieces, entry.name):
                size = None if entry.statinfo is None else entry.statinfo.size
                yield Found(name=name, url=url.text, size=size)

    def server(self, url: Url) -> Any:
        """The client of a URL's server; connections are kept beneath it."""
        return self._client.FileSystem(Url(url.scheme, url.host, "", url.userinfo, url.port).sent)

    def copies(self) -> Any:
        copies = self._client.CopyProcess()
        copies.parallel(self._options.parallel)
        return copies

    def has_checksums(self, url: Url) -> bool:
        return url.origin not in self._without_checksums

    def lacks_checksums(self, url: Url) -> None:
        self._without_checksums.add(url.origin)


def path_of(url: Url) -> str:
    """A URL's path as XRootD's servers know it: it decodes nothing, so it is decoded here; a query
    stays. Raises AilurusError for a name that it would cut."""
    path = unquote(url.path, errors="surrogateescape")
    if "?" in path or "\0" in path or "\n" in path:
        raise AilurusError(
            f"{url} has a ?, a line break or a zero byte in its name",
            remedy="choose a name without: XRootD would cut it there",
        )
    path = "/" + path.lstrip("/")
    return path if url.query is None else f"{path}?{url.query}"


class _Batch:
    """One call of get or put."""

    def __init__(self, mover: XRootD, way: Way, tell: Tell) -> None:
        self._mover, self._way = mover, way
        self._lock = threading.Lock()
        self._tell = tell
        self._tries_left = 0
        self._moving: set[int] = set()
        """Files of which something has moved."""

    def run(self, files: Sequence[ToGet] | Sequence[ToPut]) -> None:
        """Move them; those that a first try shows to need another are tried once more."""
        for self._tries_left in (2, 1, 0):
            files = self._try(files)
            if not files:
                return

    def _try(self, files: Sequence[ToGet | ToPut]) -> list[Any]:
        copies, jobs = self._mover.copies(), []
        for file in files:
            try:
                url = Url.parse(file.url)
                self._add(copies, file, url)
            except JobError as error:
                self._say(not_moved(file.key, error))
            except AilurusError as error:
                failed = failure(self._way, Failure.BAD_NAME, error.message)
                self._say(not_moved(file.key, failed))
            else:
                jobs.append((file, url))
        if not jobs:
            return []
        copies.prepare()
        watch = _Watch(self, jobs)
        copies.run(watch)
        return watch.again

    def _add(self, copies: Any, file: ToGet | ToPut, url: Url) -> None:
        root = Url(url.scheme, url.host, "", url.userinfo, url.port).sent
        remote = f"{root}/{path_of(url)}"
        incoming = self._way is Way.IN
        asked = isinstance(file, ToGet) and file.adler32 is None and self._mover.has_checksums(url)
        alone = "target" if incoming else "source"
        copies.add_job(
            remote if incoming else file.path,
            file.path if incoming else remote,
            posc=not incoming,
            mkdir=not incoming,
            checksummode="end2end" if asked else alone,
            checksumtype="adler32",
        )

    def _say(self, news: Moved | NotMoved | Progress) -> None:
        with self._lock:
            self._tell(news)

    def began(self, file: ToGet | ToPut) -> None:
        self._say(Progress(key=file.key, moved_bytes=0))

    def moved(self, file: ToGet | ToPut, so_far: int) -> None:
        if so_far:
            self._moving.add(file.key)
        self._say(Progress(key=file.key, moved_bytes=so_far))

    def ended(self, file: ToGet | ToPut, url: Url, result: dict[str, Any]) -> bool:
        """Tell how a file ended, or return True if it is to be tried again."""
        try:
            failed = not result["status"].ok and self._tries_left
            if failed and self._again(file, url, result["status"]):
                return True
            self._say(self._end(file, url, result))
        except JobError as error:
            if isinstance(file, ToGet):
                drop(file.path)
            self._say(not_moved(file.key, error))
        return False

    def _end(self, file: ToGet | ToPut, url: Url, result: dict[str, Any]) -> Moved:
        status = result["status"]
        if isinstance(file, ToGet):
            if not status.ok:
                raise explained(Way.IN, url, status)
            adler32 = padded(result["targetCheckSum"].partition(":")[2])
            if file.adler32 not in {None, adler32} and self._adler32(url) == file.adler32:
                raise failure(Way.IN, Failure.WRONG, url)
            md5 = _md5(file) if file.md5 else None
            return Moved(key=file.key, size=result["size"], adler32=adler32, md5=md5)
        if not status.ok:
            if kind(status.code, status.errno) is Failure.EXISTS:
                return self._same(file, url, status)
            raise self._cleared(url, status)
        adler32 = padded(result["sourceCheckSum"].partition(":")[2])
        self._arrived(file, url, adler32)
        return Moved(key=file.key, size=result["size"], adler32=adler32)

    def _again(self, file: ToGet | ToPut, url: Url, status: Any) -> bool:
        """Whether a failure is one that a second try of ours avoids."""
        if status.code in _BROKEN and file.key not in self._moving:
            # The server was started again, and had closed a connection that we keep.
            return True
        if status.code != SERVER:
            return False
        if status.errno == _UNSUPPORTED and self._mover.has_checksums(url):
            self._mover.lacks_checksums(url)
            self._clean(file, url)
            return True
        if status.errno == EXISTS and isinstance(file, ToPut):
            found, info = self._mover.server(url).stat(path_of(url))
            if found.ok and info.flags & _POSC_PENDING:
                self._clean(file, url)
                return True
        return False

    def _clean(self, file: ToGet | ToPut, url: Url) -> None:
        if isinstance(file, ToGet):
            drop(file.path)
        else:
            self._mover.server(url).rm(path_of(url))

    def _cleared(self, url: Url, status: Any) -> JobError:
        """Remove what a failed upload of ours left; the error that says why it failed. A file that
        was refused at its opening is not there, or another's."""
        why = explained(Way.OUT, url, status)
        if status.code == SERVER and status.errno in _REFUSED_AT_OPENING:
            return why
        gone, _ = self._mover.server(url).rm(path_of(url), timeout=CLEARING_S)
        missing = not gone.ok and kind(gone.code, gone.errno) is Failure.MISSING
        return why if gone.ok or missing else LeftBehind(why)

    def _same(self, file: ToPut, url: Url, status: Any) -> Moved:
        """What is there may be ours, of a try whose end was lost: a name has one writer."""
        ours = measured(file.path)
        if self._adler32(url) != ours.adler32:
            raise explained(Way.OUT, url, status)
        return Moved(key=file.key, size=ours.size, adler32=ours.adler32)

    def _arrived(self, file: ToPut, url: Url, ours: str) -> None:
        """Raise JobError if the storage has something else, or not all of it where it has no
        checksums."""
        if self._mover.has_checksums(url):
            status, there = self._checksum(url)
            if there == ours:
                return
            if there is not None:
                self._mover.server(url).rm(path_of(url))
                raise failure(Way.OUT, Failure.WRONG, url)
            if not status.ok and kind(status.code, status.errno) is not Failure.UNSUPPORTED:
                raise self._cleared(url, status)
            self._mover.lacks_checksums(url)
        self._sized(file, url)

    def _adler32(self, url: Url) -> str | None:
        """What the server says of a file; None: nothing."""
        return self._checksum(url)[1]

    def _checksum(self, url: Url) -> tuple[Any, str | None]:
        """The status of the question for a file's adler32, and what the server says."""
        with self._mover.asking_for_checksum:
            status, answer = self._mover.server(url).query(_CHECKSUM_QUERY, path_of(url))
        words = bytes(answer or b"").rstrip(b"\0\n").split() if status.ok else []
        return status, padded(words[-1].decode()) if words[:1] == [b"adler32"] else None

    def _sized(self, file: ToPut, url: Url) -> None:
        """Raise JobError if the storage, which has no checksums, has not all bytes."""
        found, info = self._mover.server(url).stat(path_of(url))
        if found.ok and info.size != file.size:
            self._mover.server(url).rm(path_of(url))
            raise failure(Way.OUT, Failure.FAILED, url, f"{info.size} of {file.size} bytes")


_BROKEN = frozenset({102, 104, 107, 109})
"""Codes of a connection that was there and is not any more."""
_REFUSED_AT_OPENING = frozenset({EXISTS, 3010, 3016, 3025, 3028, 3030})


def _md5(file: ToGet) -> str | None:
    try:
        return measured(file.path, md5=True).md5
    except OSError as error:
        raise local_failure(error.errno or 0, f"cannot read the copy of {file.url}") from None


class _Watch:
    """What a copy process calls, from threads of its own. It counts jobs from 1."""

    def __init__(self, batch: _Batch, jobs: Sequence[tuple[Any, Url]]) -> None:
        self._batch, self._jobs = batch, jobs
        self.again: list[Any] = []

    def begin(self, number: int, total: int, source: object, target: object) -> None:
        del total, source, target
        self._batch.began(self._jobs[number - 1][0])

    def update(self, number: int, processed: int, total: int) -> None:
        del total
        self._batch.moved(self._jobs[number - 1][0], processed)

    def end(self, number: int, result: dict[str, Any]) -> None:
        file, url = self._jobs[number - 1]
        if self._batch.ended(file, url, result):
            self.again.append(file)

    def should_cancel(self, number: int) -> bool:
        del number
        return False
