"""The queue in one SQLite file: one writer that shares commits, and a few readers beside it.

Brief changes run on the event loop: in a thread beside it each of their statements would wait for
the interpreter, a quarter of a request's CPU. The writer thread runs changes that may be long, and
every commit, which waits for the disk. See `docs/commits.md`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ailurus.migrations import migrate
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.query import Query
from dispatcher.events import Entry
from dispatcher.ports import Row, Tx, Unavailable
from dispatcher.store.queries import fragments, statements
from dispatcher.store.schema import for_sqlite, migrations
from dispatcher.store.searching import searched
from dispatcher.store.writer import Again, Answers, Draft, Drafted, Waiting, Writing, event_row

T = TypeVar("T")
READERS = 2
# Rows that are written in one go.
ROWS = 250
# Events that are entered under their jobs at once.
ENTERED = 1000
# Numbers of events that are set aside at once: a process that is killed leaves out as many.
AHEAD = 1000
# Steps (`Ahead.steps`) of the changes that run on the event loop together, at most.
BRIEF = 64
# How long the event loop waits for another process that writes to the file.
LOCKED_MS = 100
_encode = msgspec.json.Encoder().encode
_TEXTS = {name: one.text for name, one in statements().items()}
_WRITES = frozenset(name for name, one in statements().items() if one.writes)


class SqliteTx(Draft):
    """A transaction on one connection."""

    def __init__(
        self, connection: sqlite3.Connection, last_event: int = 0, set_aside: int = 0
    ) -> None:
        """`set_aside`: the last number of an event that was reserved for this process."""
        super().__init__(last_event)
        self.connection = connection
        self.set_aside = set_aside

    def one(self, query: str, **values: Any) -> Row | None:
        self.wrote |= query in _WRITES
        cursor = self.connection.execute(_TEXTS[query], values)
        row: Row | None = cursor.fetchone()
        # A statement that is left half read would keep its snapshot.
        cursor.close()
        return row

    def all(self, query: str, **values: Any) -> list[Row]:
        self.wrote |= query in _WRITES
        return self.connection.execute(_TEXTS[query], values).fetchall()

    def search(self, query: str, wanted: Query, now: float, **values: Any) -> list[Row]:
        text, more = searched(_TEXTS[query], wanted, now, fragments())
        return self.connection.execute(text, {**values, **more}).fetchall()

    def run(self, query: str, **values: Any) -> None:
        self.wrote = True
        self.connection.execute(_TEXTS[query], values)

    def many(self, query: str, values: Iterable[Mapping[str, Any]]) -> None:
        self.wrote = True
        rows = iter(values)
        while part := list(islice(rows, ROWS)):
            self.connection.executemany(_TEXTS[query], part)
            if len(part) == ROWS:
                # Linux may queue the event loop behind this thread, on the same core, for 4 ms.
                time.sleep(0)

    def settle(self) -> None:
        """Write sums and events: once for all changes of a commit."""
        for statement, rows in self.sums.rows():
            self.many(statement, rows)
        if not self.events:
            return
        if (more := self._last_event + len(self.events) - self.set_aside) > 0:
            self._set_aside(more + AHEAD)
        self.many(
            "event.add",
            (event_row(entry, entry.seq) for entry in self.events),
        )

    def _set_aside(self, by: int) -> None:
        self.run("series.take", name="event", by=by)
        self.set_aside += by

    def give_back(self) -> None:
        """Let the next process go on with the number that follows the last event."""
        if self.set_aside > self._last_event:
            self._set_aside(self._last_event - self.set_aside)

    def enter(self, entered: int) -> int:
        """Enter events under their jobs once enough follow `entered`; returns the last entered."""
        last = self._last_event + len(self.events)
        if last - entered < ENTERED:
            return entered
        self.run("event.enter", after=entered)
        self.run("series.take", name="job_event", by=last - entered)
        return last


class Sqlite(Writing):
    """A `Store` in a file of its own; a second dispatcher on the same file is refused."""

    alone = True

    def __init__(self, path: Path) -> None:
        super().__init__(READERS)
        self.path = path
        self._lock = _exclusive(path)
        try:
            self._writer = _opened(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._writer.execute(f"pragma busy_timeout = {LOCKED_MS}").close()
        self._last_event, self._entered = (
            int(self._writer.execute(_TEXTS[name]).fetchone()[0])
            for name in ("event.set_aside", "event.entered")
        )
        self._set_aside = self._last_event
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._start()

    @staticmethod
    def _clock() -> float:
        # It reads in this thread: the work of other threads is not counted.
        return time.thread_time()

    async def publish(self, notice: str) -> None:
        self._deliver(notice)

    async def finish_schema(self) -> bool:
        # No other process can be on the file: all steps ran at the start.
        return True

    async def close(self) -> None:
        await self._stop()
        # If it fails, some numbers of events are left out.
        with contextlib.suppress(sqlite3.Error):
            SqliteTx(self._writer, self._last_event, self._set_aside).give_back()
        for connection in (*self._reading, self._writer):
            connection.close()
        os.close(self._lock)

    def _read(self, query: Callable[[Tx], T]) -> T:
        if not hasattr(self._local, "connection"):
            self._local.connection = _connect(self.path)
            self._local.connection.execute("pragma query_only = 1")
            self._reading.append(self._local.connection)
        connection = self._local.connection
        connection.execute("begin")
        try:
            return query(SqliteTx(connection))
        finally:
            connection.execute("rollback")

    def _gathered(self) -> list[Waiting]:
        """The first changes that are brief together; all, if the first may be long."""
        steps = number = 0
        for _, _, ahead in self._waiting:
            steps += ahead.steps
            if steps > BRIEF:
                break
            number += 1
        return [self._waiting.popleft() for _ in range(number)] or super()._gathered()

    def _draft(self, batch: Sequence[Waiting]) -> Drafted:
        """Run brief changes; the thread only commits them.

        Returns None to leave them to the thread: they may be long, another process writes to the
        file, or one of them failed after it had written and each must run again by itself.
        """
        if not _brief(batch):
            return None
        try:
            return self._drafted(batch, _all)
        except Again:
            return None
        # It broke the commit, not one change: the thread answers all changes with it.
        except Exception as error:  # noqa: BLE001
            return None if _locked(error) else error

    def _run(self, batch: Sequence[Waiting], draft: Drafted) -> tuple[Answers, list[Entry]]:
        try:
            if isinstance(draft, Exception):
                raise draft
            tx = draft if isinstance(draft, SqliteTx) else self._again(batch)
            with self._undone(tx):
                entered = tx.enter(self._entered)
                self._writer.execute("commit")
        except sqlite3.Error as error:
            raise Unavailable(str(error)) from error
        self._entered, self._set_aside = entered, tx.set_aside
        self._last_event += len(tx.events)
        return tx.answers, tx.events

    def _again(self, batch: Sequence[Waiting]) -> SqliteTx:
        # Brief changes that come here have already failed together.
        if not _brief(batch):
            with contextlib.suppress(Again):
                return self._drafted(batch, _all)
        return self._drafted(batch, _each)

    def _drafted(
        self, batch: Sequence[Waiting], way: Callable[[SqliteTx, Sequence[Waiting]], Answers]
    ) -> SqliteTx:
        tx = SqliteTx(self._writer, self._last_event, self._set_aside)
        self._writer.execute("begin immediate")
        with self._undone(tx):
            tx.answers = way(tx, batch)
            tx.settle()
        return tx

    @contextlib.contextmanager
    def _undone(self, tx: SqliteTx) -> Iterator[None]:
        """Undo what the transaction did if the block fails, in memory too."""
        try:
            yield
        except BaseException:
            tx.unassign()
            if self._writer.in_transaction:
                self._writer.execute("rollback")
            raise


def _locked(error: Exception) -> bool:
    """Whether another process writes to the file."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return bool(code & 0xFF == sqlite3.SQLITE_BUSY)


def _brief(batch: Sequence[Waiting]) -> bool:
    return sum(ahead.steps for _, _, ahead in batch) <= BRIEF


def _all(tx: SqliteTx, batch: Sequence[Waiting]) -> Answers:
    """Run one change after the other. Raises Again if one fails after it has written."""
    answers: Answers = []
    for change, _, _ in batch:
        tx.wrote = False
        try:
            answers.append((change(tx), None))
        except (sqlite3.OperationalError, sqlite3.InternalError):
            raise
        # The change's own: it is raised to its caller.
        except Exception as error:  # noqa: BLE001
            if tx.wrote:
                raise Again from None
            answers.append((None, error))
    return answers


def _each(tx: SqliteTx, batch: Sequence[Waiting]) -> Answers:
    """Run each change in a savepoint of its own, so that one that fails harms no other."""
    answers: Answers = []
    for change, _, _ in batch:
        point = tx.mark()
        tx.connection.execute("savepoint change")
        try:
            answers.append((change(tx), None))
        except (sqlite3.OperationalError, sqlite3.InternalError):
            raise
        except Exception as error:  # noqa: BLE001 - the caller's
            tx.connection.execute("rollback to change")
            tx.back_to(point)
            answers.append((None, error))
        tx.connection.execute("release change")
    return answers


def _exclusive(path: Path) -> int:
    """A lock on FILE.lock, held while this process lives."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AilurusError(
            f"cannot open the store {path}: {error.strerror}",
            field="--store",
            remedy="is it writable?",
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise AilurusError(
            f"another dispatcher serves {path}",
            field="--store",
            remedy="stop it, or name another file",
        ) from None
    return lock


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to the file with all tables. Raises AilurusError for one that is no store."""
    try:
        connection = _connect(path)
        try:
            migrate(connection, migrations(), path, text=for_sqlite)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise AilurusError(
            f"cannot open the store {path}: {error}",
            field="--store",
            remedy="name a file that a dispatcher made, or a new one; is it on a local, writable disk?",
        ) from None
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        for pragma in (
            "journal_mode = wal",
            "synchronous = full",
            # Pages: larger ones make rarer but longer commits.
            "wal_autocheckpoint = 2000",
            "busy_timeout = 10000",
            "cache_size = -65536",
            "temp_store = memory",
        ):
            connection.execute(f"pragma {pragma}").close()
    except BaseException:
        connection.close()
        raise
    return connection
