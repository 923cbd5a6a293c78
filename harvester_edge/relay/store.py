"""What a relay must not forget, in one SQLite file.

A change is a plain function of the connection. The writer thread runs those that have gathered,
each in a savepoint, commits once, then answers all: what has been answered is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from ailurus.logs import Log
from ailurus.loops import Loop, Loops
from ailurus.migrations import migrate, steps_in

Change = Callable[[sqlite3.Connection], object]
Done = asyncio.Future[None]
MIGRATIONS = files("harvester_edge").joinpath("migrations", "relay")


class RelayStore:
    """The file, and the one thread that writes it."""

    def __init__(self, path: Path, loops: Loops | None = None) -> None:
        """`loops`: keep the thread; those of the process."""
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            path.chmod(0o600)
            for line in ("journal_mode = wal", "synchronous = full", "busy_timeout = 10000"):
                self._connection.execute(f"pragma {line}")
            migrate(self._connection, steps_in(MIGRATIONS), path)
        except BaseException:
            self._connection.close()
            raise
        self._changes: queue.SimpleQueue[tuple[Change, Done] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = (loops or Loops(Log("relay"))).thread(
            "store", self._write, over=self._closed.is_set
        )

    def all(self, statement: str) -> list[Any]:
        """Rows, read before anybody writes: at the start."""
        return self._connection.execute(statement).fetchall()

    def first_name(self, name: str) -> str:
        """The name of this relay from now on; at the start, before anybody writes."""
        self._connection.execute("insert into name (whose, name) values ('relay', ?)", (name,))
        return name

    async def write(self, change: Change) -> None:
        """Run `change`; returns after the commit. Raises what it raised, or what the commit did."""
        done: Done = asyncio.get_running_loop().create_future()
        self._changes.put((change, done))
        await asyncio.shield(done)

    def close(self) -> None:
        self._changes.put(None)
        self._thread.join()
        self._connection.close()

    def _write(self, loop: Loop) -> None:
        loop.turned(None)
        while (first := self._changes.get()) is not None:
            batch = [first]
            while not self._changes.empty() and len(batch) < 1000:
                if (one := self._changes.get()) is None:
                    self._changes.put(None)
                    break
                batch.append(one)
            self._commit(batch)
            loop.turned(None)
        self._closed.set()

    def _commit(self, batch: list[tuple[Change, Done]]) -> None:
        results: list[tuple[Done, BaseException | None]] = []
        connection = self._connection
        try:
            connection.execute("begin immediate")
            for change, done in batch:
                connection.execute("savepoint one")
                try:
                    # A cursor that it returns must end in this thread.
                    change(connection)
                    results.append((done, None))
                except Exception as error:  # noqa: BLE001 - it is its caller's
                    connection.execute("rollback to one")
                    results.append((done, error))
                connection.execute("release one")
            connection.execute("commit")
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            results = [(done, error) for _, done in batch]
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("rollback")
            why = RuntimeError(f"the relay's writer broke: {error!r}")
            _answer_all([(done, why) for _, done in batch])
            raise
        _answer_all(results)


def _answer_all(results: list[tuple[Done, BaseException | None]]) -> None:
    """Have the event loop answer."""
    loop = results[0][0].get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_answer, results)


def _answer(results: list[tuple[Done, BaseException | None]]) -> None:
    for done, error in results:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
