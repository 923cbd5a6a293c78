"""`file:` URLs, beneath the site's storage roots and nowhere else.

A path is walked from a root's descriptor, one name at a time, following no link: so neither `..` nor a
symbolic link nor a race leads out. Names are data: nothing is decoded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from hashlib import md5 as new_md5

from ailurus.protocol.errors import Code
from pilot.ports import Check, Copied, JobError

BLOCK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class File:
    """Copies with adler32 computed on the way."""

    def __init__(self, *, roots: Sequence[str] = (), http_allow: Sequence[str] = ()) -> None:
        # A root itself may be reached through links: the site wrote it. Beneath it none are followed.
        self._roots = sorted(
            {(_clean(given), os.path.realpath(given)) for given in roots}
            | {(os.path.realpath(given),) * 2 for given in roots},
            key=lambda pair: -len(pair[0]),
        )

    def allowed(self, url: str) -> None:
        self._beneath(url)

    def get(self, url: str, into: int, check: Check, *, md5: bool) -> Copied:
        with self._parent(url) as (parent, name):
            try:
                source = os.open(name, _READ, dir_fd=parent)
            except OSError as error:
                raise _explained(error, url, Code.STAGE_IN_FAILED) from None
            try:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    raise JobError(Code.STORAGE_FORBIDDEN, f"{url} is not a regular file")
                return copy(source, into, check, md5=md5)
            except OSError as error:
                raise _explained(error, url, Code.STAGE_IN_FAILED) from None
            finally:
                os.close(source)

    def put(self, source: int, url: str, check: Check) -> Copied:
        with self._parent(url, make=True) as (parent, name):
            part = _part(name)
            try:
                into = os.open(part, _NEW, 0o644, dir_fd=parent)
                try:
                    copied = copy(source, into, check, md5=False)
                    os.fsync(into)
                    os.link(part, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
                    os.fsync(parent)
                finally:
                    os.close(into)
                    with contextlib.suppress(OSError):
                        os.unlink(part, dir_fd=parent)
            except FileExistsError:
                raise JobError(
                    Code.STAGE_OUT_FAILED,
                    f"{url} exists already, and outputs overwrite nothing",
                    transient=False,
                ) from None
            except OSError as error:
                raise _explained(error, url, Code.STAGE_OUT_FAILED) from None
            return copied

    def delete(self, url: str) -> None:
        try:
            with self._parent(url) as (parent, name):
                _unlink(_part(name), parent, url)  # a pilot killed in a copy leaves only the part
                _unlink(name, parent, url)
        except JobError as error:
            if error.code is not Code.NO_SUCH_FILE:
                raise

    def _beneath(self, url: str) -> tuple[str, list[str]]:
        """The root that `url` lies beneath, and the names from there on."""
        host, slash, rest = url.removeprefix("file://").partition("/")
        parts = rest.split("/")
        while parts and parts[-1] == "":
            parts.pop()
        if not url.startswith("file://") or host not in ("", "localhost") or not slash or not parts:
            raise JobError(Code.STORAGE_FORBIDDEN, f"{url!r} is not a file:///path URL")
        if ".." in parts or "\0" in rest:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"{url!r} has `..` in its path",
                remedy="write the path without it",
            )
        names = [part for part in parts if part not in ("", ".")]
        path = "/" + "/".join(names)
        for given, real in self._roots:
            if path.startswith(given.rstrip("/") + "/"):
                return real, path[len(given.rstrip("/")) + 1 :].split("/")
        known = ", ".join(sorted({given for given, _ in self._roots})) or "none"
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url!r} is not beneath this site's storage",
            remedy=f"storage.roots of the site: {known}",
        )

    @contextlib.contextmanager
    def _parent(self, url: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory of a file, open, and the file's name in it."""
        root, names = self._beneath(url)
        try:
            here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _explained(error, url, Code.SERVICE_UNAVAILABLE) from None
        try:
            for name in names[:-1]:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=here)
                below = os.open(name, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
        except OSError as error:
            os.close(here)
            raise _explained(
                error, url, Code.STAGE_OUT_FAILED if make else Code.STAGE_IN_FAILED
            ) from None
        try:
            yield here, names[-1]
        finally:
            os.close(here)


def copy(source: int, into: int, check: Check, *, md5: bool) -> Copied:
    """Copy all of an open file, measuring it on the way."""
    block = memoryview(bytearray(BLOCK))
    size, adler = 0, 1
    digest = new_md5(usedforsecurity=False) if md5 else None
    while got := os.readv(source, [block]):
        check()
        piece = block[:got]
        adler = zlib.adler32(piece, adler)
        if digest is not None:
            digest.update(piece)
        size += got
        while piece:
            piece = piece[os.write(into, piece) :]
    return Copied(size=size, adler32=f"{adler:08x}", md5=digest.hexdigest() if digest else None)


def _unlink(name: str, parent: int, url: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _explained(error, url, Code.STAGE_OUT_FAILED) from None


def _part(name: str) -> str:
    """What a file is called until it is whole. Its name has one writer, for it carries the attempt: so
    whoever deletes what an attempt left finds this too."""
    return f".{name[:240]}.part"


def _clean(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _explained(error: OSError, url: str, code: Code) -> JobError:
    if error.errno == errno.ENOENT:
        return JobError(Code.NO_SUCH_FILE, f"{url} does not exist")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} leads through a symbolic link or something that is no directory",
            remedy="name the real path, or list where it leads in the site's storage.roots",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return JobError(code, f"{url}: permission denied to the pilot", transient=False)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobError(code, f"no space left for {url}", transient=True)
    return JobError(code, f"{url}: {error.strerror}")
