"""The queue in one SQLite file: one writer thread that shares commits, a few readers beside it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.messages import Event
from dispatcher.ports import Row, Tx, Unavailable
from dispatcher.store.queries import migrations, queries

T = TypeVar("T")
TOGETHER = 512  # changes that may share a commit
READERS = 2
log = Log("store")
_encode = msgspec.json.Encoder().encode


class SqliteTx:
    """A transaction on one connection; what it counts and tells is written when it is settled."""

    def __init__(self, connection: sqlite3.Connection, last_event: int = 0) -> None:
        self._connection = connection
        self._queries = queries()
        self._last_event = last_event
        self.counts: Counter[tuple[str, int, str]] = Counter()
        self.events: list[Event] = []

    def one(self, query: str, **values: Any) -> Row | None:
        cursor = self._connection.execute(self._queries[query], values)
        row: Row | None = cursor.fetchone()
        cursor.close()  # a statement left half read would hold its snapshot
        return row

    def all(self, query: str, **values: Any) -> list[Row]:
        return self._connection.execute(self._queries[query], values).fetchall()

    def run(self, query: str, **values: Any) -> int:
        return self._connection.execute(self._queries[query], values).rowcount

    def many(self, query: str, values: Iterable[Mapping[str, Any]]) -> None:
        self._connection.executemany(self._queries[query], values)

    def count(self, queue: str, shape_id: int, state: str, by: int) -> None:
        self.counts[queue, shape_id, state] += by

    def tell(
        self,
        kind: str,
        *,
        at: float,
        job_id: int | None = None,
        worker_id: int | None = None,
        **data: Any,
    ) -> None:
        seq = self._last_event + len(self.events) + 1
        self.events.append(
            Event(seq=seq, at=at, kind=kind, job_id=job_id, worker_id=worker_id, data=data)
        )

    def savepoint(self) -> tuple[Counter[tuple[str, int, str]], int]:
        self._connection.execute("savepoint change")
        return self.counts.copy() if self.counts else Counter(), len(self.events)

    def rollback_to(self, point: tuple[Counter[tuple[str, int, str]], int]) -> None:
        self._connection.execute("rollback to change")
        self.counts = point[0]
        del self.events[point[1] :]

    def settle(self) -> None:
        """Write counters and events: once for all changes of a commit."""
        moves = [
            {"queue": q, "shape_id": shape, "state": state, "by": by}
            for (q, shape, state), by in self.counts.items()
            if by
        ]
        self.many("counter.move", moves)
        self.many(
            "event.add",
            (
                {
                    "seq": event.seq,
                    "at": event.at,
                    "kind": event.kind,
                    "job_id": event.job_id,
                    "worker_id": event.worker_id,
                    "data": _encode(event.data).decode(),
                }
                for event in self.events
            ),
        )


Change = Callable[[Tx], Any]
Job = tuple[Change, asyncio.Future[Any], asyncio.AbstractEventLoop]


class Sqlite:
    """A `Store` in a file of its own; a second dispatcher on the same file is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _exclusive(path)
        self._writer = _connect(path)
        _migrate(self._writer, path)
        self._last_event = int(self._writer.execute(queries()["event.last"]).fetchone()[0])
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._listeners: list[Callable[[Sequence[Event]], None]] = []
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)
        self._thread.start()

    async def write(self, change: Callable[[Tx], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((change, done, loop))
        return await done

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)

    def listen(self, listener: Callable[[Sequence[Event]], None]) -> None:
        self._listeners.append(listener)

    async def close(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown()
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

    def _serve(self) -> None:
        ends = False
        while not ends:
            jobs = [self._jobs.get()]
            while len(jobs) < TOGETHER and not self._jobs.empty():
                jobs.append(self._jobs.get())
            ends = None in jobs
            batch = [job for job in jobs if job is not None]
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[Job]) -> None:
        """Run the changes, commit once, answer all. What the store itself refuses fails all of them."""
        began = time.perf_counter()
        answers: list[tuple[Any, BaseException | None]] = []
        tx = SqliteTx(self._writer, self._last_event)
        try:
            self._writer.execute("begin immediate")
            for change, _, _ in batch:
                point = tx.savepoint()
                try:
                    answers.append((change(tx), None))
                except (sqlite3.OperationalError, sqlite3.InternalError):
                    raise
                except Exception as error:  # noqa: BLE001 - the caller's: it travels to who asked for the change
                    tx.rollback_to(point)
                    answers.append((None, error))
                self._writer.execute("release change")
            tx.settle()
            self._writer.execute("commit")
        except sqlite3.Error as error:
            log.warning("commit_failed", reason=str(error), changes=len(batch))
            if self._writer.in_transaction:
                self._writer.execute("rollback")
            answers = [(None, Unavailable(str(error)))] * len(batch)
            tx.events = []
        self._last_event += len(tx.events)
        took = time.perf_counter() - began
        if took > 0.25:
            log.warning("commit_slow", seconds=round(took, 3), changes=len(batch))
        loop = batch[0][2]
        try:
            loop.call_soon_threadsafe(self._answer, batch, answers, tx.events)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.warning("loop_closed", changes=len(batch))

    def _answer(
        self, batch: list[Job], answers: list[tuple[Any, BaseException | None]], events: list[Event]
    ) -> None:
        for (_, done, _), (answer, error) in zip(batch, answers, strict=True):
            if done.cancelled():
                continue
            if error is None:
                done.set_result(answer)
            else:
                done.set_exception(error)
        if events:
            for listener in self._listeners:
                listener(events)


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


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    for pragma in (
        "journal_mode = wal",
        "synchronous = full",
        "wal_autocheckpoint = 2000",  # pages: larger ones make rarer but longer commits
        "busy_timeout = 10000",
        "cache_size = -65536",
        "temp_store = memory",
    ):
        connection.execute(f"pragma {pragma}").close()
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(
        "create table if not exists migration (number integer primary key, name, digest, applied)"
    )
    done = dict(connection.execute("select number, digest from migration"))
    for step in migrations():
        if step.number in done:
            if done[step.number] != step.digest:
                raise AilurusError(
                    f"{path}: migration {step.name} is not the one that was applied",
                    remedy="install the version that made this store, or restore a back-up",
                )
            continue
        connection.executescript(f"begin immediate;\n{step.sql}")  # leaves the transaction open
        connection.execute(
            "insert into migration values (?, ?, ?, unixepoch())",
            (step.number, step.name, step.digest),
        )
        connection.execute("commit")
    if unknown := set(done) - {step.number for step in migrations()}:
        raise AilurusError(
            f"{path}: made by a newer version (migration {max(unknown)})",
            remedy="install that version",
        )
