"""The spool: what a pilot owes the dispatcher, on disk, so that its death loses nothing.

A pilot has one journal, `INSTANCE.journal`, and its lock while it lives: a line when an attempt
begins (with the key and the planned outputs), one with the final report, one when the dispatcher
answered. Whoever gets the lock of a journal owes what is open in it. A report is on disk before
`keep` returns; threads that come together share one fdatasync. Lines that only matter if this
process dies are not synced: the kernel has them. A disk that is full costs nothing that was
accepted: what is not written stands nowhere half, and an attempt whose report found no room is
struck out where it began, so that nobody takes it for killed and deletes the outputs that it has
reported from memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.messages import ItemEnd, Report
from pilot.own_directory import locks_are_local
from pilot.upstream.untold import left_by, path_of

Id = tuple[int, int]


class Begun(Struct, frozen=True, kw_only=True, tag="begun"):
    """An attempt came here. `outputs`: all URLs that it may leave something at."""

    job_id: int
    attempt_nr: int
    report_key: str
    outputs: tuple[str, ...] = ()
    directory: str = ""
    host: str = ""
    # By which the dispatcher's verdict is known.
    seal: str = ""
    # time.time() when it came.
    since: float = 0.0


class Kept(Struct, frozen=True, tag="report"):
    report: Report
    seal: str = ""
    # What its uploads may have left.
    leftovers: tuple[str, ...] = ()


class Settled(Struct, frozen=True, tag="settled"):
    """The dispatcher answered, or the attempt was given back."""

    job_id: int
    attempt_nr: int


class Owed(Struct, frozen=True):
    """A report to send, what to delete of it, and the seal by which its verdict is known."""

    report: Report
    leftovers: tuple[str, ...] = ()
    seal: str = ""
    since: float = 0.0
    """When the attempt came to its pilot, or ended, seconds since 1970; 0: nobody knows."""


_log = Log("pilot.upstream.spool")
_encode = msgspec.json.Encoder().encode
_line = msgspec.json.Decoder(Begun | Kept | Settled)


class Journal:
    """One pilot's journal, locked."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._open: dict[Id, Begun | Kept] = {}
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._written = self._synced = 0
        # What lies behind it is the torn rest of a write that failed.
        self._end = 0
        # Where the line of an open attempt lies.
        self._began: dict[Id, tuple[int, int]] = {}

    def begin(self, attempts: Iterable[Begun]) -> None:
        with self._lock:
            for attempt in attempts:
                one = (attempt.job_id, attempt.attempt_nr)
                self._open[one] = attempt
                begins = self._end
                self._append([attempt])
                self._began[one] = (begins, self._end - begins)

    def keep(self, report: Report, leftovers: Iterable[str] = ()) -> None:
        """On disk when this returns, with the URLs of what uploads may have left. Raises OSError if
        the disk does not take it."""
        one = (report.job_id, report.attempt_nr)
        with self._lock:
            begun = self._open.get(one)
            kept = Kept(report, "" if begun is None else begun.seal, tuple(leftovers))
            self._open[one] = kept
            try:
                self._append([kept])
            except OSError:
                self._strike_out(one)
                raise
            self._written += 1
            mine = self._written
        with self._syncing:
            if self._synced < mine:
                upto = self._written
                os.fdatasync(self._fd)
                self._synced = upto

    def settle(self, ids: Iterable[Id]) -> None:
        """Nothing is owed for these any more. Without room to say so they are reported once more by
        the next pilot, and counted once."""
        with self._lock:
            settled = [one for one in ids if self._open.pop(one, None) is not None]
            for one in settled:
                self._began.pop(one, None)
                path_of(self.path, "{}.{}".format(*one)).unlink(missing_ok=True)
            if not self._open:
                # Nothing is owed: the shortest journal says so.
                os.ftruncate(self._fd, 0)
                self._end = 0
                return
            try:
                self._append(Settled(*one) for one in settled)
            except OSError as error:
                _log.warning("spool_full", what=error.strerror)

    def owed(self) -> list[Owed]:
        """What the pilot that wrote this still owes, to be sent in its name."""
        return [
            Owed(one.report, one.leftovers, one.seal, one.report.ended)
            if isinstance(one, Kept)
            else _killed(one, left_by(path_of(self.path, f"{one.job_id}.{one.attempt_nr}")))
            for one in self._open.values()
        ]

    def hosts(self) -> set[str]:
        """Where its open attempts ran."""
        return {
            one.host if isinstance(one, Begun) else one.report.host for one in self._open.values()
        }

    def directories(self) -> list[str]:
        return [one.directory for one in self._open.values() if isinstance(one, Begun)]

    def close(self) -> None:
        """Leave the journal to the next pilot, or remove it if nothing is owed."""
        with self._lock:
            if not self._open:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self._fd)

    def _append(self, lines: Iterable[Struct]) -> None:
        data = b"".join(_encode(line) + b"\n" for line in lines)
        at = self._end
        while data:
            written = os.pwrite(self._fd, data, at)
            data, at = data[written:], at + written
        self._end = at

    def _strike_out(self, one: Id) -> None:
        """Write over the line of an attempt: that takes no room, where appending does."""
        if (where := self._began.pop(one, None)) is not None:
            at, length = where
            os.pwrite(self._fd, _encode(Settled(*one)).ljust(length - 1) + b"\n", at)
            os.fdatasync(self._fd)

    def _read(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for text in file:
                if text.endswith(b"\n"):
                    self._end += len(text)
                try:
                    line = _line.decode(text)
                except msgspec.MsgspecError:
                    # Torn by a crash, or a newer pilot's: the rest still counts.
                    continue
                if isinstance(line, Begun):
                    self._open[line.job_id, line.attempt_nr] = line
                elif isinstance(line, Kept):
                    self._open[line.report.job_id, line.report.attempt_nr] = line
                else:
                    self._open.pop((line.job_id, line.attempt_nr), None)


class Spool:
    """The directory of journals."""

    def __init__(self, directory: Path, instance: str) -> None:
        self.directory = directory
        _private(directory)
        path = directory / f"{instance}.journal"
        # Under its name only with its lock, or another pilot would take it for a dead one's.
        new = path.with_suffix(".new")
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(path)
        self.own = Journal(path, fd)

    def orphans(self) -> Iterator[Journal]:
        """Journals of pilots that are dead: ours from now on. Those that cannot be read or locked
        are left alone, and where locks are seen on their own node only, all that are not known to
        be of this one."""
        here = socket.gethostname() if locks_are_local(self.directory) else None
        for path in sorted(self.directory.glob("*.journal")):
            if path == self.own.path:
                continue
            try:
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(fd).st_uid != os.geteuid():
                    raise OSError
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink == 0:
                    # Its pilot removed it between our two calls.
                    raise OSError
            except OSError:
                os.close(fd)
                continue
            journal = Journal(path, fd)
            journal._read()  # noqa: SLF001 - of the same module
            if here is None or journal.hosts() == {here}:
                yield journal
            else:
                os.close(fd)


def _killed(begun: Begun, items: tuple[ItemEnd, ...]) -> Owed:
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
        items=items,
    )
    return Owed(report, begun.outputs, begun.seal, begun.since)


def _private(directory: Path) -> None:
    """A directory of mode 700 that is ours: a user who can read a spool can report in our name."""
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
