"""`file:` URLs, beneath the site's storage roots and nowhere else.

A path is walked from a root's descriptor, one name at a time, following no link: so neither `..`
nor a symbolic link nor a race leads out. Names are bytes, decoded from the URL one by one and never
again: no locale and no `%2F` makes another path of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence

from ailurus.beneath import DIRECTORY, entered
from ailurus.naming import name_once, synced
from ailurus.protocol.errors import Code
from ailurus.protocol.trees import listing, matches_pieces
from ailurus.protocol.url import Url
from ailurus.regular import NotRegular, open_regular
from pilot.blame import OSErrorsOn, Target, job_error
from pilot.ports import ABSENT, MOST_FOUND, TAKEN, Check, Copied, Found, JobError, too_many
from plugins.data.checksums import Checksums

BLOCK = 1 << 20
MOST_LISTED = 100_000
"""Entries of one directory that are looked at."""
# As outputs are called: JOB.ATTEMPT.NAME.
_OF_AN_ATTEMPT = re.compile(rb"\d+\.\d+\.")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class File:
    """Copies with adler32 computed on the way."""

    def __init__(self, *, roots: Sequence[str] = (), **_: object) -> None:
        # A root itself may be reached through links: the site wrote it. Beneath it none are
        # followed.
        paths = [given.encode("utf-8", "surrogateescape") for given in roots]
        self._roots = sorted(
            {(_names(path), os.path.realpath(path)) for path in paths}
            | {(_names(real), real) for real in map(os.path.realpath, paths)},
            key=lambda pair: -len(pair[0]),
        )

    def allowed(self, url: Url) -> None:
        self._beneath(url)

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        with self._parent(url) as (parent, name):
            try:
                source = open_regular(name, parent)
            except NotRegular:
                raise JobError(
                    Code.STORAGE_FORBIDDEN,
                    f"{url} is not a regular file",
                    remedy="name a file, or for all in a directory its URL with a / at the end",
                ) from None
            except OSError as error:
                raise _explained(error, url, Code.STAGE_IN_FAILED) from None
            try:
                mode = os.fstat(source).st_mode
                reading = OSErrorsOn(Target.STORAGE, f"cannot read {url}", Code.STAGE_IN_FAILED)
                writing = OSErrorsOn(Target.NODE, f"cannot write its copy of {url}")
                copied = copy(source, into, check, md5=md5, reading=reading, writing=writing)
                if mode & stat.S_IXUSR:
                    # On some file systems all files are programs, or none.
                    with contextlib.suppress(PermissionError):
                        os.fchmod(into, 0o700)
                return copied
            except OSError as error:
                raise _explained(error, url, Code.STAGE_IN_FAILED) from None
            finally:
                os.close(source)

    def put(self, source: int, url: Url, check: Check) -> Copied:
        with self._parent(url, make=True) as (parent, name):
            part = _part(name)
            try:
                program = os.fstat(source).st_mode & stat.S_IXUSR
                into = os.open(part, _NEW, 0o755 if program else 0o644, dir_fd=parent)
                try:
                    reading = OSErrorsOn(Target.NODE, f"cannot read the output for {url}")
                    writing = OSErrorsOn(
                        Target.STORAGE, f"cannot write {url}", Code.STAGE_OUT_FAILED
                    )
                    copied = copy(source, into, check, md5=False, reading=reading, writing=writing)
                    synced(into)
                    name_once(part, name, directory=parent)
                    synced(parent)
                finally:
                    os.close(into)
                    with contextlib.suppress(OSError):
                        os.unlink(part, dir_fd=parent)
            except FileExistsError:
                raise JobError(
                    Code.STAGE_OUT_FAILED,
                    f"{url} exists already, and outputs overwrite nothing",
                    remedy=TAKEN,
                    transient=False,
                ) from None
            except OSError as error:
                raise _explained(error, url, Code.STAGE_OUT_FAILED) from None
            return copied

    def delete(self, url: Url) -> None:
        try:
            with self._parent(url) as (parent, name):
                # A pilot killed in a copy leaves only the part.
                _unlink(_part(name), parent, url)
                _unlink(name, parent, url)
        except JobError as error:
            if error.code is not Code.NO_SUCH_FILE:
                raise
        self._remove_empty(url)

    def _remove_empty(self, url: Url) -> None:
        """Remove the directories of an attempt's tree above a file that is gone, if nothing is left
        in them."""
        names = [name for name in url.segments if name not in {b"", b"."}]
        own = [nr for nr, name in enumerate(names[:-1]) if _OF_AN_ATTEMPT.match(name)]
        for _ in names[own[0] : -1] if own else ():
            url = url.parent
            try:
                with self._parent(url) as (above, name):
                    os.rmdir(name, dir_fd=above)
            except (OSError, JobError):
                return

    def listed(self, url: Url, check: Check) -> Sequence[Found]:
        """See `pilot.ports.Lister`. A link, a socket or a device is no file, and is left out."""
        top, pieces = listing(url)
        found: list[Found] = []
        todo = [(top, "")]
        while todo:
            check()
            directory, above = todo.pop()
            below = []
            for name, status in self._entries(directory):
                if stat.S_ISDIR(status.st_mode) and not pieces:
                    below.append((directory.joined(name), f"{above}{name}/"))
                    continue
                if stat.S_ISREG(status.st_mode) and (not pieces or matches_pieces(pieces, name)):
                    part = directory.joined(name).text
                    found.append(Found(name=f"{above}{name}", url=part, size=status.st_size))
                if len(found) + len(below) + len(todo) > MOST_FOUND:
                    raise too_many(url)
            todo += reversed(below)
        return found

    def _entries(self, directory: Url) -> list[tuple[str, os.stat_result]]:
        """What is in a directory, sorted by name. Raises JobError."""
        found = []
        # Of any file in it, whose name nobody reads.
        with self._parent(directory.joined("x"), of=directory) as (here, _):
            try:
                with os.scandir(here) as entries:
                    for entry in entries:
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
                        if len(found) > MOST_LISTED:
                            raise too_many(directory)
            except OSError as error:
                raise _explained(error, directory, Code.STAGE_IN_FAILED) from None
        return sorted(found, key=lambda one: os.fsencode(one[0]))

    def _beneath(self, url: Url) -> tuple[bytes, tuple[bytes, ...]]:
        """The root that `url` lies beneath, and the names from there on."""
        strange = url.userinfo is not None or url.query is not None or url.fragment is not None
        names = tuple(name for name in url.segments if name not in {b"", b"."})
        if url.scheme != "file" or url.host not in {"", "localhost"} or strange or not names:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"{url} is not a file:///path URL",
                remedy="in a path write ? as %3F and # as %23",
            )
        if any(name == b".." or b"/" in name or b"\0" in name for name in names):
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"{url} has `..`, %2F or %00 in its path",
                remedy="write the path without it",
            )
        for given, real in self._roots:
            if len(names) > len(given) and names[: len(given)] == given:
                return real, names[len(given) :]
        known = ", ".join(sorted({_shown(given) for given, _ in self._roots})) or "none"
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} is not beneath this site's storage",
            remedy=f"put it beneath {known}, or have its directory added to the site's storage.roots"
            " (--storage of a pilot without a site file)",
        )

    @contextlib.contextmanager
    def _parent(
        self, url: Url, *, make: bool = False, of: Url | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """The directory of a file, open, and the file's name in it. `of`: what errors speak of, if
        not of the file."""
        root, names = self._beneath(url)
        url = of or url
        try:
            top = os.open(root, DIRECTORY & ~os.O_NOFOLLOW)
        except OSError as error:
            raise _explained(error, url, Code.SERVICE_UNAVAILABLE) from None
        try:
            here = entered(top, names[:-1], make=0o755 if make else None)
        except OSError as error:
            raise _explained(
                error, url, Code.STAGE_OUT_FAILED if make else Code.STAGE_IN_FAILED
            ) from None
        try:
            yield here, names[-1]
        finally:
            os.close(here)


def copy(
    source: int,
    into: int,
    check: Check,
    *,
    md5: bool,
    reading: OSErrorsOn,
    writing: OSErrorsOn,
) -> Copied:
    """Copy all of an open file, measuring it on the way; where it has holes, the copy has them too.
    `reading` and `writing` say whose an OSError is."""
    block = memoryview(bytearray(BLOCK))
    found = os.fstat(source)
    sparse = found.st_blocks * 512 < found.st_size
    seen = Checksums(md5=md5)
    while True:
        with reading:
            got = os.readv(source, [block])
        if not got:
            break
        check()
        piece = block[:got]
        seen.add(piece)
        with writing:
            if sparse and not piece.tobytes().strip(b"\0"):
                os.lseek(into, got, os.SEEK_CUR)
                continue
            while piece:
                piece = piece[os.write(into, piece) :]
    if sparse:
        with writing:
            os.ftruncate(into, seen.size)
    return seen.copied


def _unlink(name: bytes, parent: int, url: Url) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _explained(error, url, Code.STAGE_OUT_FAILED) from None


def _part(name: bytes) -> bytes:
    """What a file is called until it is whole. Its name has one writer, for it carries the attempt:
    so whoever deletes what an attempt left finds this too."""
    if len(name) > 240:
        # Names of one attempt may be alike so far.
        name = name[:200] + hashlib.sha256(name).hexdigest()[:32].encode()
    return b".%b.part" % name


def _names(path: bytes) -> tuple[bytes, ...]:
    return tuple(name for name in path.split(b"/") if name not in {b"", b"."})


def _shown(names: Sequence[bytes]) -> str:
    return "/" + b"/".join(names).decode("utf-8", "backslashreplace")


def _explained(error: OSError, url: Url, code: Code) -> JobError:
    if error.errno == errno.ENOENT:
        return JobError(Code.NO_SUCH_FILE, f"{url} does not exist", remedy=ABSENT)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} leads through a symbolic link or something that is no directory",
            remedy="name the real path, or list where it leads in the site's storage.roots",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return JobError(
            code,
            f"{url}: permission denied to the pilot",
            remedy="let the pilot's user read inputs there, and write outputs (chmod, chgrp)",
            transient=False,
        )
    return job_error(error, f"cannot reach {url}", Target.STORAGE, code=code)
