"""SQLite as bare peers use it: one writer thread, all that arrives during a commit shares the
next."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

Change = Callable[[sqlite3.Connection], Any]
BODY = b'{"name":"job","command":"true","environment":{"PAD":"' + b"x" * 2900 + b'"}}'

SCHEMA = """
create table job (id integer primary key, state integer, queue integer, prio integer, worker integer, beat real);
create index ready on job (queue, prio desc, id) where state = 0;
create table body (id integer primary key, body blob);
"""
TAKE = """update job set state = 1, worker = :worker, beat = :now where id =
    (select id from job where queue = 0 and state = 0 order by prio desc, id limit 1) returning id"""


def make(path: str, jobs: int, body: bytes = BODY) -> sqlite3.Connection:
    """A store with jobs queued; durable, as ours."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("pragma journal_mode = wal").close()
    connection.execute("pragma synchronous = full").close()
    connection.execute("pragma wal_autocheckpoint = 2000").close()
    connection.executescript(SCHEMA)
    connection.execute("begin")
    rows = ((nr, nr % 10) for nr in range(1, jobs + 1))
    connection.executemany("insert into job values (?, 0, 0, ?, 0, 0)", rows)
    connection.executemany(
        "insert into body values (?, ?)", ((nr, body) for nr in range(1, jobs + 1))
    )
    connection.execute("commit")
    return connection


class Batch:
    """The writer thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changes: queue.SimpleQueue[tuple[Change, asyncio.Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def write(self, change: Change) -> asyncio.Future[Any]:
        """The result of `change`, once it is durable."""
        done = asyncio.get_running_loop().create_future()
        self._changes.put((change, done))
        return done

    def beat(self, job_id: int) -> asyncio.Future[bytes]:
        """Done when the job's heartbeat is durable."""
        return self.write(lambda connection: beat(connection, job_id))

    def take(self) -> asyncio.Future[bytes]:
        """The best job of the queue, handed out."""
        return self.write(take)

    def _serve(self) -> None:
        while True:
            batch = [self._changes.get()]
            while len(batch) < 512 and not self._changes.empty():
                batch.append(self._changes.get())
            self._connection.execute("begin immediate")
            results = [change(self._connection) for change, _ in batch]
            self._connection.execute("commit")
            loop = batch[0][1].get_loop()
            loop.call_soon_threadsafe(_answer, batch, results)


def _answer(batch: list[tuple[Change, asyncio.Future[Any]]], results: list[Any]) -> None:
    for (_, done), result in zip(batch, results, strict=True):
        if not done.cancelled():
            done.set_result(result)


def take(connection: sqlite3.Connection) -> bytes:
    """The best job of the queue, handed out."""
    row = connection.execute(TAKE, {"worker": 1, "now": 0.0}).fetchone()
    if row is None:
        return b"{}"
    body = connection.execute("select body from body where id = ?", row).fetchone()[0]
    return b'{"id":%d,"spec":%s}' % (row[0], body)


def beat(connection: sqlite3.Connection, job_id: int, state: int = 1) -> bytes:
    """A durable update of one job."""
    connection.execute("update job set state = ?, beat = beat + 1 where id = ?", (state, job_id))
    return b'{"ok":true}'
