"""The log of an attempt: its output, its notes and what it left, as one tar file in storage.

A failed attempt's goes there, and that of a job that wants its whole log; the site may keep all, or
none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, cast

from ailurus.protocol.errors import Code
from ailurus.protocol.job import WHOLE_LOG
from ailurus.protocol.messages import DoneFile
from pilot.attempt import Attempt
from pilot.files.live_log import opened
from pilot.files.stage import LOG, Stage
from pilot.files.undeclared import declares
from pilot.ports import JobError
from pilot.workdir import Workdir, tail_of

STREAM_BYTES = 256_000_000
"""Of stdout and of stderr; of a longer one, as much of its beginning as of its end."""
MEMBER_BYTES, TOTAL_BYTES, MEMBERS = 2_000_000, 20_000_000, 500
"""Of a file that the payload left, of all of them together, and how many: their ends."""
NOT_WORTH_IT = {Code.KILLED_BY_SERVER, Code.SIGTERM, Code.SIGINT, Code.SIGXCPU, Code.SIGUSR1}


def wanted(attempt: Attempt, policy: str, error: JobError | None) -> bool:
    """Whether an attempt's log goes to storage. `policy`: the site's, one of `LOGS`."""
    if attempt.assignment.keep_log or (attempt.spec.log == WHOLE_LOG and policy != "none"):
        return True
    if error is None:
        return policy == "all"
    return policy != "none" and error.code not in NOT_WORTH_IT


def keep_log(
    attempt: Attempt, work: Workdir, stage: Stage, error: JobError | None
) -> tuple[DoneFile, ...]:
    """Put the log tarball into the site's default storage, if there is one. Never raises: what
    became of the job is what is reported."""
    if not wanted(attempt, stage.logs, error) or not stage.has_default or not work.path.is_dir():
        return ()
    if error is not None:
        attempt.note(str(error))
    try:
        with tempfile.TemporaryFile(dir=work.path) as file:
            write(attempt, work, file)
            file.flush()
            return (stage.put(attempt, LOG, file.fileno()),)
    except (JobError, OSError) as problem:
        attempt.note(f"no log tarball: {problem}")
        return ()


def write(attempt: Attempt, work: Workdir, into: IO[bytes]) -> None:
    """Regular files only, opened without following a link, bounded in all; what is cut says so."""
    import tarfile

    with tarfile.open(fileobj=into, mode="w:gz", compresslevel=5) as tar:

        def add(name: str, *parts: Part) -> None:
            member = tarfile.TarInfo(f"{attempt.name}/{name}")
            member.size, member.mode = sum(size for size, _ in parts), 0o644
            tar.addfile(member, cast("IO[bytes]", _Joined(parts)))

        for path in (work.stdout, work.stderr):
            if (fd := opened(path)) is not None:
                try:
                    add(path.name, *_ends(attempt, path.name, fd))
                finally:
                    os.close(fd)
        for name, data in _left(attempt, work):
            add(name, _text(data))
        add("pilot.log", _text("\n".join([*attempt.notes, ""]).encode("utf-8", "replace")))


Part = tuple[int, Callable[[int, int], bytes]]
"""So many bytes, and what reads SIZE of them AT a place."""


def _text(data: bytes) -> Part:
    return len(data), lambda size, at: data[at : at + size]


def _of(fd: int, start: int, size: int) -> Part:
    return size, lambda most, at: os.pread(fd, most, start + at)


def _ends(attempt: Attempt, name: str, fd: int) -> list[Part]:
    """A stream, or its beginning and its end with a line between them that says what is missing."""
    size, half = os.fstat(fd).st_size, STREAM_BYTES // 2
    if size <= STREAM_BYTES:
        return [_of(fd, 0, size)]
    missing = f"\n[{size - 2 * half} bytes are not kept here]\n".encode()
    attempt.note(f"{name} has {size} bytes: of it, the first and the last {half} are in this log")
    return [_of(fd, 0, half), _text(missing), _of(fd, size - half, half)]


class _Joined:
    """Parts, read one after the other as one file."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts, self._at = list(parts), 0

    def read(self, size: int) -> bytes:
        found = b""
        while len(found) < size and self._parts:
            length, read = self._parts[0]
            data = read(min(size - len(found), length - self._at), self._at)
            self._at += len(data)
            found += data
            if not data or self._at == length:
                del self._parts[0]
                self._at = 0
        return found


def _left(attempt: Attempt, work: Workdir) -> Iterator[tuple[str, bytes]]:
    """The ends of the files that a payload left besides its inputs and outputs."""
    declared = declares(attempt.spec)
    count, room = 0, TOTAL_BYTES
    for name, _ in work.files(tmp=False):
        if declared(name.removeprefix("work/")):
            continue
        try:
            fd = work.open(name.removeprefix("work/"))
        except (OSError, ValueError):
            continue
        try:
            start, data = tail_of(fd, min(MEMBER_BYTES, room))
        finally:
            os.close(fd)
        if start:
            attempt.note(f"{name}: its first {start} bytes are not in this log")
        yield name, data
        room -= len(data)
        if (count := count + 1) >= MEMBERS or room <= 0:
            attempt.note("there may be more files that are not in this log")
            return
