"""A directory as one archive: the same contents make the same bytes.

Members come in the order of their names, with no owner and no time, files 644 or 755. A symbolic
link is kept as a link if it leads to a place in the directory; it is never followed. A file of
several names is stored for each.
"""

from __future__ import annotations

import gzip
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Sequence
from itertools import takewhile
from typing import IO, cast

from ailurus.protocol.errors import Code
from pilot.blame import OSErrorsOn, Target
from pilot.files.leaving import LONGEST_PATH, Entry, Walk, unsafe
from pilot.ports import Check, JobError
from pilot.workdir import Workdir

LEVEL = 1
"""Of compression: most data of physics is compressed already."""


def pack(directory: str, work: Workdir, into: IO[bytes], most: int, check: Check) -> None:
    """Write the archive of a directory in a job's, whose files may have `most` bytes together.
    Raises JobError."""
    entries = list(Walk(work, check).tree(directory))
    total = sum(one.size for one in entries if stat.S_ISREG(one.mode))
    if total > most:
        raise JobError(
            Code.OUTPUT_TOO_LARGE,
            f"the files in {directory} have {total} bytes, and {most} are possible: what the job's "
            "disk has, and what the site takes as one file",
            remedy="ask for more `disk`, or leave fewer files in it",
        )
    with OSErrorsOn(Target.NODE, f"cannot write the archive of {directory}"):
        if total > (free := shutil.disk_usage(work.path).free):
            raise JobError(
                Code.NO_LOCAL_SPACE,
                f"the files in {directory} have {total} bytes, and {free} are free on this node",
                remedy="free space there; the job is tried again elsewhere",
            )
        with (
            gzip.GzipFile("", "wb", LEVEL, into, mtime=0) as zipped,
            tarfile.open(
                fileobj=zipped,
                mode="w",
                format=tarfile.PAX_FORMAT,
                encoding="utf-8",
                errors="surrogateescape",
            ) as tar,
        ):
            _add_all(entries, directory, work, tar, check)


def _add_all(
    entries: Sequence[Entry], directory: str, work: Workdir, tar: tarfile.TarFile, check: Check
) -> None:
    for entry in entries:
        check()
        member = tarfile.TarInfo(entry.name.removeprefix(directory))
        mode = entry.mode
        if stat.S_ISDIR(mode):
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        elif stat.S_ISLNK(mode):
            member.type, member.mode = tarfile.SYMTYPE, 0o777
            member.linkname = _target(entry, directory, work)
            tar.addfile(member)
        elif stat.S_ISREG(mode):
            _add_file(member, entry.name, work, tar, check)
        else:
            raise unsafe(entry.name, "is a socket, a pipe or a device")
        # It keeps all that it has written, which it needs for reading alone.
        tar.getmembers().clear()


def _add_file(
    member: tarfile.TarInfo, name: str, work: Workdir, tar: tarfile.TarFile, check: Check
) -> None:
    try:
        source = work.open(name)
    except (OSError, ValueError):
        raise unsafe(name, "is no regular file that the pilot can read") from None
    try:
        found = os.fstat(source)
        member.size = found.st_size
        member.mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
        tar.addfile(member, cast("IO[bytes]", _Whole(source, name, found.st_size, check)))
    finally:
        os.close(source)


def _target(entry: Entry, directory: str, work: Workdir) -> str:
    """Where a link leads, if that is in the directory."""
    above, _, last = entry.name.rpartition("/")
    try:
        with work.beneath(above.split("/")) as here:
            target = os.readlink(last, dir_fd=here)
    except OSError:
        raise unsafe(entry.name, "was exchanged while it was packed") from None
    if not leads_within(entry.name.removeprefix(directory), target):
        raise unsafe(entry.name, f"is a symbolic link out of {directory}, to {target!r}")
    return target


def leads_within(link: str, target: str) -> bool:
    """Whether the link `link` in a tree leads to a place in that tree, whatever other links are in
    it: `..` stands at the beginning, where it leaves directories that are none."""
    if not target or target.startswith("/") or "\0" in target or len(target) > LONGEST_PATH:
        return False
    parts = [part for part in target.split("/") if part not in {"", "."}]
    above = len(list(takewhile("..".__eq__, parts)))
    if ".." in parts[above:]:
        return False
    led = posixpath.normpath(posixpath.join(posixpath.dirname(link), target))
    return led != ".." and not led.startswith("../")


class _Whole:
    """An open file of so many bytes, to be read to its end."""

    def __init__(self, source: int, name: str, size: int, check: Check) -> None:
        self._source, self._name, self._left, self._check = source, name, size, check

    def read(self, size: int) -> bytes:
        self._check()
        data = os.read(self._source, min(size, self._left))
        self._left -= len(data)
        if not data and self._left:
            raise unsafe(self._name, "became shorter while it was packed")
        if len(data) < size and self._left:
            data += self.read(size - len(data))
        return data
