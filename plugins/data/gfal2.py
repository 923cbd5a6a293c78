"""`davs:`, `https:`, `root:`, `srm:` URLs by gfal2, where the site has its module for some Python.

gfal2 tells what is wrong by errno. It compares no checksums here: ours is measured on the local
file, the storage's is asked for where it has one, and that costs a third of gfal2's own way.
"""

from __future__ import annotations

import errno
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.trees import listing, matches_pieces
from ailurus.protocol.url import Url
from pilot.ports import Copied, Found, JobError, LeftBehind, Moved, Mover, Tell, ToGet, ToPut
from plugins.data.gfal2_elsewhere import module
from plugins.data.moving import (
    Failure,
    GridOptions,
    Way,
    drop,
    each_in_threads,
    failure,
    few,
    local_failure,
    measured,
    padded,
    set_environment,
    token_of,
)
from plugins.data.xrootd import path_of, settings

T = TypeVar("T")
SLOWEST_BYTES_S = 100_000
"""gfal2 knows only a time for a whole file: that of this speed, after what a server may be silent."""
UNKNOWN_S = 7200
"""The same, of a file whose size nobody knows."""

_BY_ERRNO = {
    errno.ENOENT: Failure.MISSING,
    errno.EEXIST: Failure.EXISTS,
    # Also of a handshake that failed: the next may not.
    errno.EACCES: Failure.UNKNOWN_USER,
    errno.EPERM: Failure.DENIED,
    errno.EROFS: Failure.DENIED,
    errno.ENOSPC: Failure.FULL,
    errno.EDQUOT: Failure.FULL,
    errno.EISDIR: Failure.NOT_A_FILE,
    errno.ENOTDIR: Failure.NOT_A_FILE,
    errno.ENAMETOOLONG: Failure.BAD_NAME,
    errno.EINVAL: Failure.BAD_NAME,
    errno.EILSEQ: Failure.BAD_NAME,
    errno.ETIMEDOUT: Failure.STALLED,
    errno.ETIME: Failure.STALLED,
    errno.EHOSTDOWN: Failure.UNREACHABLE,
    errno.EHOSTUNREACH: Failure.UNREACHABLE,
    errno.ENETUNREACH: Failure.UNREACHABLE,
    errno.ECONNREFUSED: Failure.UNREACHABLE,
    errno.ENOTCONN: Failure.UNREACHABLE,
    errno.EBUSY: Failure.BUSY,
    errno.EAGAIN: Failure.BUSY,
    errno.EKEYEXPIRED: Failure.UNKNOWN_USER,
    errno.EKEYREJECTED: Failure.UNKNOWN_USER,
    errno.ENOKEY: Failure.UNKNOWN_USER,
    errno.EPROTONOSUPPORT: Failure.UNSUPPORTED,
    errno.EOPNOTSUPP: Failure.UNSUPPORTED,
    errno.ENOSYS: Failure.UNSUPPORTED,
}
_NO_CHECKSUM = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL}
_LOCAL = {errno.ENOSPC, errno.EDQUOT}
"""Of a download: the storage is only read."""


def kind(number: int) -> Failure:
    """What an errno of gfal2 says is wrong."""
    return _BY_ERRNO.get(number, Failure.FAILED)


def explained(way: Way, url: Url, number: int, detail: str) -> JobError:
    """The error of a file, by gfal2's errno."""
    if way is Way.IN and number in _LOCAL:
        return local_failure(number, f"cannot write its copy of {url}")
    return failure(way, kind(number), url, detail)


def time_s(size: int | None, stall_s: int) -> int:
    """How long gfal2 may take for a file of so many bytes, in seconds."""
    return stall_s + (UNKNOWN_S if size is None else size // SLOWEST_BYTES_S)


def address(url: Url) -> str:
    """A URL as gfal2 takes it: of XRootD's with a path that is not encoded. Raises AilurusError as
    `path_of`."""
    if url.scheme not in {"root", "roots", "xroot", "xroots"}:
        return url.sent
    return f"{Url(url.scheme, url.host, '', url.userinfo, url.port).sent}/{path_of(url)}"


class Gfal2(Mover):
    """Moves files by several contexts of gfal2, each in a thread of its own at a time."""

    class Options(GridOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """As of all the grid's libraries, and more."""

        python: str = ""
        """The Python that has gfal2's module. Left out: the pilot's, or else one of the system's."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._set_environment()
        self._gfal2 = module(options.python)
        self._contexts: queue.SimpleQueue[_Context] = queue.SimpleQueue()
        for _ in range(options.parallel):
            self._contexts.put(_Context(self._gfal2.creat_context(), used=False))

    def _set_environment(self) -> None:
        """Let its libraries have the site's credentials, and notice a server that is silent."""
        set_environment(self._options)
        for name, value in settings(self._options.stall_s).items():
            os.environ[f"XRD_{name.upper()}"] = str(value)

    def get(self, files: Sequence[ToGet], tell: Tell) -> None:
        self._set_environment()
        each_in_threads(Way.IN, files, tell, self._get, self._options.parallel)

    def put(self, files: Sequence[ToPut], tell: Tell) -> None:
        self._set_environment()
        each_in_threads(Way.OUT, files, tell, self._put, self._options.parallel)

    def delete(self, urls: Sequence[str]) -> Mapping[str, str]:
        self._set_environment()
        left = {}
        for text in urls:
            try:
                url = Url.parse(text)
                there = address(url)
            except AilurusError as error:
                left[text] = str(error)
                continue
            try:
                self._asked(url, methodcaller("unlink", there))
            except self._gfal2.GError as error:
                if error.code != errno.ENOENT:
                    left[text] = str(explained(Way.OUT, url, error.code, error.message))
        return left

    def expand(self, url: str) -> Sequence[Found]:
        self._set_environment()
        top, pieces = listing(Url.parse(url))

        def listed(context: Any) -> list[Found]:
            found = context.stat(address(top))
            if not stat.S_ISDIR(found.st_mode):
                return [Found(name=top.name, url=url, size=found.st_size)]
            return few(_beneath(context, top, "", pieces), url)

        try:
            return self._asked(top, listed)
        except self._gfal2.GError as error:
            raise explained(Way.IN, top, error.code, error.message) from None

    def _get(self, file: ToGet, url: Url, progress: Callable[[int], None]) -> Moved:

        def copy(context: Any) -> tuple[Copied, str | None]:
            drop(file.path)
            parameters = self._parameters(context, file.size, progress)
            context.filecopy(parameters, address(url), f"file://{file.path}")
            copied = measured(file.path, md5=file.md5 is not None)
            return copied, None if file.adler32 else self._checksum(context, url)

        try:
            copied, theirs = self._asked(url, copy)
        except self._gfal2.GError as error:
            drop(file.path)
            raise explained(Way.IN, url, error.code, error.message) from None
        except OSError as error:
            drop(file.path)
            raise local_failure(error.errno or 0, f"cannot read its copy of {url}") from None
        if theirs not in {None, copied.adler32}:
            drop(file.path)
            raise failure(Way.IN, Failure.WRONG, url, f"{copied.adler32}, there {theirs}")
        return Moved(key=file.key, size=copied.size, adler32=copied.adler32, md5=copied.md5)

    def _put(self, file: ToPut, url: Url, progress: Callable[[int], None]) -> Moved:
        ours = measured(file.path)
        began = threading.Event()

        def copy(context: Any) -> None:
            parameters = self._parameters(context, file.size, progress)
            parameters.create_parent = True
            parameters.event_callback = _on_transfer(began, progress)
            try:
                context.filecopy(parameters, f"file://{file.path}", address(url))
                self._arrived(context, url, file.size, ours.adler32)
            except self._gfal2.GError as error:
                if error.code == errno.EEXIST and self._theirs(context, url) == ours.adler32:
                    # It is ours, of a try whose end was lost: a name has one writer.
                    return
                if not began.is_set():
                    raise
                # The name was free as it began: a server has not done with a try whose client died.
                number = errno.EBUSY if error.code == errno.EEXIST else error.code
                why = explained(Way.OUT, url, number, error.message)
                raise self._cleared(context, url, why) from None
            except JobError as error:
                raise self._cleared(context, url, error) from None

        try:
            self._asked(url, copy)
        except self._gfal2.GError as error:
            # Before it began, nothing there is ours.
            raise explained(Way.OUT, url, error.code, error.message) from None
        return Moved(key=file.key, size=ours.size, adler32=ours.adler32)

    def _arrived(self, context: Any, url: Url, size: int, adler32: str) -> None:
        """Raise JobError if the storage says that it has something else."""
        theirs = self._checksum(context, url)
        if theirs is None:
            found = context.stat(address(url)).st_size
            if found != size:
                raise failure(Way.OUT, Failure.FAILED, url, f"{found} of {size} bytes arrived")
        elif theirs != adler32:
            raise failure(Way.OUT, Failure.WRONG, url, f"{adler32}, there {theirs}")

    def _cleared(self, context: Any, url: Url, why: JobError) -> JobError:
        """Remove what an upload of ours left; the error that says why it failed."""
        try:
            context.unlink(address(url))
        except self._gfal2.GError as error:
            if error.code != errno.ENOENT:
                return LeftBehind(why)
        return why

    def _checksum(self, context: Any, url: Url) -> str | None:
        """The storage's adler32; None: it has none. Raises GError."""
        try:
            return padded(context.checksum(address(url), "adler32"))
        except self._gfal2.GError as error:
            if error.code in _NO_CHECKSUM:
                return None
            raise

    def _theirs(self, context: Any, url: Url) -> str | None:
        """The same; None, too, where it does not say."""
        try:
            return self._checksum(context, url)
        except self._gfal2.GError:
            return None

    def _parameters(self, context: Any, size: int | None, progress: Callable[[int], None]) -> Any:
        parameters = context.transfer_parameters()
        parameters.overwrite = False
        parameters.timeout = time_s(size, self._options.stall_s)
        parameters.monitor_callback = lambda *seen: progress(int(seen[4]))
        return parameters

    def _asked(self, url: Url, what: Callable[[Any], T]) -> T:
        """What comes of a context that nobody else uses meanwhile. A server that was started again
        has broken the connections that contexts keep: then another try has a new one. Raises
        GError, and what `what` raises."""
        context, used = self._contexts.get()
        try:
            try:
                return what(self._shown(context, url))
            except self._gfal2.GError as error:
                if not used or kind(error.code) is not Failure.UNREACHABLE:
                    raise
                context = self._gfal2.creat_context()
                return what(self._shown(context, url))
        finally:
            self._contexts.put(_Context(context, used=True))

    def _shown(self, context: Any, url: Url) -> Any:
        """A context with the site's token for that server."""
        if self._options.token_file:
            server = Url(url.scheme, url.host, port=url.port).sent
            found = token_of(self._options)
            token = self._gfal2.cred_new("BEARER", found.text or _token(found.path))
            self._gfal2.cred_set(context, server, token)
        return context


class _Context(NamedTuple):
    """A context of gfal2, and whether it may keep connections."""

    context: Any
    used: bool


def _on_transfer(began: threading.Event, progress: Callable[[int], None]) -> Callable[[Any], None]:
    """Notes that an upload writes. gfal2 counts its bytes only every five seconds, and whoever
    kills it must know that there is something to remove: hence one."""

    def seen(event: Any) -> None:
        if str(event.stage).startswith("TRANSFER") and not began.is_set():
            began.set()
            progress(1)

    return seen


def _token(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, ValueError):
        raise JobError(
            Code.SERVICE_UNAVAILABLE,
            f"the site's token_file {path} cannot be read on this node",
            remedy="is it there, and the pilot's user's?",
            transient=True,
        ) from None


def _beneath(context: Any, directory: Url, above: str, pieces: Sequence[str]) -> Iterator[Found]:
    """The files beneath a directory, or those right in it that have these pieces. Raises GError."""
    entries = context.opendir(address(directory))
    while True:
        entry, found = entries.readpp()
        if entry is None:
            return
        name = entry.d_name
        if name in {"", ".", ".."} or "/" in name:
            continue
        url = directory.joined(name)
        if stat.S_ISDIR(found.st_mode):
            if not pieces:
                yield from _beneath(context, url, f"{above}{name}/", pieces)
        elif not pieces or matches_pieces(pieces, name):
            yield Found(name=f"{above}{name}", url=url.text, size=found.st_size)
