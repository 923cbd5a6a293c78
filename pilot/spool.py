"""The spool: what a pilot owes the dispatcher, on disk, so that its death loses nothing.

A pilot has one journal, `INSTANCE.journal`, and its lock while it lives: a line when an attempt begins
(with the key and the planned outputs), one with the final report, one when the dispatcher answered.
Whoever gets the lock of a journal owes what is open in it. A report is on disk before `keep` returns;
threads that come together share one fdatasync. Lines that only matter if this process dies are not
synced: the kernel has them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.messages import Report

Id = tuple[int, int]
_COMPACT = 1 << 20


class Begun(Struct, frozen=True, kw_only=True, tag="begun"):
    """An attempt came here. `outputs`: all URLs that it may leave something at."""

    job_id: int
    attempt_nr: int
    report_key: str
    outputs: tuple[str, ...] = ()
    directory: str = ""
    host: str = ""


class Kept(Struct, frozen=True, tag="report"):
    report: Report


class Settled(Struct, frozen=True, tag="settled"):
    """The dispatcher answered, or the attempt was given back."""

    job_id: int
    attempt_nr: int


class Owed(Struct, frozen=True):
    """A report to send, and what to delete of it first."""

    report: Report
    leftovers: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_line = msgspec.json.Decoder(Begun | Kept | Settled)


class Journal:
    """One pilot's journal, locked."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._open: dict[Id, Begun | Report] = {}
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._written = self._synced = 0

    def begin(self, attempts: Iterable[Begun]) -> None:
        with self._lock:
            lines = []
            for attempt in attempts:
                self._open[attempt.job_id, attempt.attempt_nr] = attempt
                lines.append(attempt)
            self._append(lines)

    def keep(self, report: Report) -> None:
        """On disk when this returns. Raises OSError if the disk does not take it."""
        with self._lock:
            self._open[report.job_id, report.attempt_nr] = report
            self._append([Kept(report)])
            self._written += 1
            mine = self._written
        with self._syncing:
            if self._synced < mine:
                upto = self._written
                os.fdatasync(self._fd)
                self._synced = upto

    def settle(self, ids: Iterable[Id]) -> None:
        with self._lock:
            lines = [Settled(*one) for one in ids if self._open.pop(one, None) is not None]
            if self._open:
                self._append(lines)
            else:
                os.ftruncate(self._fd, 0)  # nothing is owed: the shortest journal says so

    def owed(self) -> list[Owed]:
        """What the pilot that wrote this still owes, to be sent in its name."""
        return [
            Owed(one) if isinstance(one, Report) else _killed(one) for one in self._open.values()
        ]

    def directories(self) -> list[str]:
        return [one.directory for one in self._open.values() if isinstance(one, Begun)]

    def close(self) -> None:
        """Leave the journal to whoever comes next, or remove it if nothing is owed."""
        with self._lock:
            if not self._open:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self._fd)

    def _append(self, lines: Iterable[Struct]) -> None:
        data = b"".join(_encode(line) + b"\n" for line in lines)
        while data:
            data = data[os.write(self._fd, data) :]

    def _read(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for text in file:
                try:
                    line = _line.decode(text)
                except msgspec.MsgspecError:
                    continue  # torn by a crash, or a newer pilot's: the rest still counts
                if isinstance(line, Begun):
                    self._open[line.job_id, line.attempt_nr] = line
                elif isinstance(line, Kept):
                    self._open[line.report.job_id, line.report.attempt_nr] = line.report
                else:
                    self._open.pop((line.job_id, line.attempt_nr), None)


class Spool:
    """The directory of journals."""

    def __init__(self, directory: Path, instance: str) -> None:
        self.directory = directory
        _private(directory)
        path = directory / f"{instance}.journal"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.own = Journal(path, fd)

    def orphans(self) -> Iterator[Journal]:
        """Journals of pilots that are dead: ours from now on."""
        for path in sorted(self.directory.glob("*.journal")):
            if path == self.own.path:
                continue
            try:
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(fd).st_uid != os.geteuid():
                    raise OSError
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink == 0:
                    raise OSError  # its pilot removed it between our two calls
            except OSError:
                os.close(fd)
                continue
            journal = Journal(path, fd)
            journal._read()  # noqa: SLF001 - of the same module
            yield journal


def _killed(begun: Begun) -> Owed:
    report = Report(
        job_id=begun.job_id,
        attempt_nr=begun.attempt_nr,
        report_key=begun.report_key,
        finished=False,
        code=Code.KILL_SIGNAL,
        diagnosis="the pilot was killed while it had this job; the next pilot on its spool says so",
        transient=True,
        ended=time.time(),
        host=begun.host,
    )
    return Owed(report, begun.outputs)


def _private(directory: Path) -> None:
    """A directory of mode 700 that is ours: whoever can read a spool can report in our name."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise AilurusError(f"cannot make the spool {directory}: {error.strerror}") from None
    if directory.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise AilurusError(
            f"the spool {directory} is a link, another user's, or open to others",
            remedy="give --spool a directory of mode 700 of your own",
        )
