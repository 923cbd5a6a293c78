"""An input archive as a directory of its contents, whatever its maker meant.

Its names decide nothing but places beneath the directory: each is walked by open descriptors that
follow no link, and links are made when everything else is there. Devices are refused. What it
costs is bounded: bytes, entries, the length of paths, and the memory that a header may take.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO, Self, TypeVar, cast

from ailurus.protocol.errors import Code
from pilot.blame import OSErrorsOn, Target
from pilot.files.archive import leads_within
from pilot.files.leaving import LONGEST_PATH, MOST_ENTRIES
from pilot.ports import Check, JobError
from pilot.process.usage import ENTRY_BYTES
from pilot.workdir import Workdir

T = TypeVar("T")
HEADER_BYTES = 256 << 10
"""Of one header with its extensions, which are read into memory."""
MOST_GLOBALS = 1000
"""Words that hold for all members, which are kept in memory."""
_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 18
_LONGEST_PART = 255
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(name: str, directory: str, work: Workdir, most: int, check: Check) -> int:
    """Put the contents of the archive `name` into the new directory `directory`, both in the job's,
    and remove the archive; they may take `most` bytes of the disk. Returns what they take. Raises
    JobError."""
    with OSErrorsOn(Target.NODE, f"cannot unpack the input {name!r}"):
        source = work.open(name)
        with os.fdopen(source, "rb") as file:
            *above, last = name.split("/")
            with work.beneath(above) as here:
                os.unlink(last, dir_fd=here)
            *above, last = directory.split("/")
            with work.beneath(above, make=True) as here:
                try:
                    os.mkdir(last, 0o700, dir_fd=here)
                except FileExistsError:
                    raise JobError(
                        Code.BAD_FILE_NAME,
                        f"the archive {name} is to become {directory!r}, where another input is",
                        remedy="give one of them another name",
                    ) from None
            return _Unpacking(name, directory, work, most, check).run(file)


class _Damaged(Exception):
    """A header cannot be read."""


class _Header(tarfile.TarInfo):
    """One that cannot be read is a fault, where tarfile takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not buf.strip(b"\0"):
                raise
            raise _Damaged("it broke off" if not buf else str(error)) from None


class _Unpacking:
    """One archive on its way."""

    def __init__(self, name: str, directory: str, work: Workdir, most: int, check: Check) -> None:
        self._name, self._work, self._check = name, work, check
        self._top = directory.split("/")
        self._most, self._left, self._entries = most, most, 0
        self._links: list[tuple[str, str]] = []

    def run(self, file: BinaryIO) -> int:
        """Unpack `file`. Raises JobError, or OSError for what the node lacks."""
        zipped = file.read(2) == _GZIP
        file.seek(0)
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if zipped else file
        bounded = _Bounded(stream, self._header_too_long, self._check)
        try:
            with tarfile.open(
                fileobj=cast("IO[bytes]", bounded),
                mode="r|",
                tarinfo=_Header,
                encoding="utf-8",
                errors="surrogateescape",
            ) as tar:
                self._members(tar, bounded)
            for name, target in self._links:
                self._link(name, target)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, _Damaged) as error:
            raise self._bad(f"is no whole .tar or .tar.gz: {error}") from None
        except (ValueError, OverflowError, RecursionError) as error:
            raise self._bad(f"has a header that means nothing: {error}") from None
        return self._most - self._left

    def _members(self, tar: tarfile.TarFile, bounded: _Bounded) -> None:
        while (member := tar.next()) is not None:
            # It keeps all headers that it has read, for questions that nobody asks here.
            tar.members = []  # type: ignore[attr-defined]
            if len(tar.pax_headers) > MOST_GLOBALS:
                raise self._header_too_long()
            bounded.allowed = max(0, member.size) + HEADER_BYTES
            self._member(member, tar)
            bounded.allowed = HEADER_BYTES
        # The checksum of what is compressed stands at its end.
        while bounded.read(_BLOCK):
            continue

    def _member(self, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        name = self._place(member.name)
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise self._too_much(f"more than {MOST_ENTRIES} entries")
        self._take(ENTRY_BYTES)
        if member.isdir():
            if name:
                self._made(f"{name}/.", lambda last, here: None)
        elif not name:
            raise self._bad("has a file without a name")
        elif member.isreg():
            self._file(member, name, tar)
        elif member.issym():
            if not leads_within(name, member.linkname):
                raise self._bad(f"has a link out of itself: {name!r} to {member.linkname!r}")
            self._links.append((name, member.linkname))
        elif member.islnk():
            self._hard_link(name, self._place(member.linkname))
        else:
            raise self._bad(f"has {name!r}, which is a device or a pipe")

    def _place(self, name: str) -> str:
        """Where a member lies in the directory. Raises JobError for a name that leads out."""
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise self._bad(f"has a name that leads out of it: {name!r}")
        longest = max((len(os.fsencode(part)) for part in parts), default=0)
        if len(os.fsencode(name)) > LONGEST_PATH or longest > _LONGEST_PART:
            raise self._bad(f"has a name that is too long: {name[:100]!r}…")
        return "/".join(parts)

    def _file(self, member: tarfile.TarInfo, name: str, tar: tarfile.TarFile) -> None:
        self._take(member.size)
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101 - it is a regular file
        mode = 0o700 if member.mode & 0o100 else 0o600
        into = self._made(name, lambda last, here: os.open(last, _NEW, mode, dir_fd=here))
        try:
            left = member.size
            while left:
                self._check()
                if not (block := content.read(min(left, _BLOCK))):
                    raise self._bad(f"ends in {name!r}")
                left -= len(block)
                piece = memoryview(block)
                while piece:
                    piece = piece[os.write(into, piece) :]
        finally:
            os.close(into)

    def _hard_link(self, name: str, target: str) -> None:
        """A second name of a file that came before."""
        if not target:
            raise self._bad(f"has a link to nothing: {name!r}")
        *above, first = target.split("/")
        try:
            with self._work.beneath([*self._top, *above]) as there:
                self._made(
                    name,
                    lambda last, here: os.link(
                        first, last, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False
                    ),
                )
        except (FileNotFoundError, NotADirectoryError):
            raise self._bad(
                f"has a link to what is not before it: {name!r} to {target!r}"
            ) from None

    def _link(self, name: str, target: str) -> None:
        self._made(name, lambda last, here: os.symlink(target, last, dir_fd=here))

    def _made(self, name: str, make: Callable[[str, int], T]) -> T:
        """What `make` makes of the last part of a name, in its open directory."""
        *above, last = name.split("/")
        try:
            with self._work.beneath([*self._top, *above], make=True) as here:
                return make(last, here)
        except (FileExistsError, NotADirectoryError):
            raise self._bad(f"has another member in the place of {name!r}") from None

    def _take(self, amount: int) -> None:
        if amount < 0:
            raise self._bad("has a size below 0")
        self._left -= amount
        if self._left < 0:
            raise self._too_much(f"more than the {self._most} bytes that the job's disk has for it")

    def _header_too_long(self) -> JobError:
        return self._bad(f"has headers of more than {HEADER_BYTES} bytes")

    def _too_much(self, what: str) -> JobError:
        return JobError(
            Code.INPUTS_TOO_LARGE,
            f"the archive {self._name} has {what}",
            remedy="ask for more `disk`, or let the payload unpack what it needs",
        )

    def _bad(self, what: str) -> JobError:
        return JobError(
            Code.STAGE_IN_FAILED,
            f"the archive {self._name} {what}",
            remedy="make it anew, or leave `unpack` out and let the payload open it",
            transient=False,
        )


class _Bounded:
    """A stream of which so many bytes may be read until more are allowed."""

    def __init__(self, stream: BinaryIO, refusal: Callable[[], JobError], check: Check) -> None:
        self._stream, self._refusal, self._check = stream, refusal, check
        self.allowed = HEADER_BYTES

    def read(self, size: int) -> bytes:
        self._check()
        data = self._stream.read(size)
        self.allowed -= len(data)
        if self.allowed < 0:
            raise self._refusal()
        return data
