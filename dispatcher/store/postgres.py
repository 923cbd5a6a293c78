"""The queue in PostgreSQL, which several dispatchers may serve at once.

As in SQLite one writer thread runs the changes that have gathered, and commits once. A row that a
change reads in order to write it is locked when it is read. The events of a commit get their
numbers under one lock that lasts until its end: they have no gap, and a reader that sees one sees
all before it. See `docs/commits.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import adapters, errors
from psycopg.adapt import Dumper
from psycopg.types.string import StrDumperUnknown

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.migrations import Unfit
from ailurus.protocol.errors import AilurusError
from dispatcher.events import Entry
from dispatcher.ports import NOTHING, NOTICE_BYTES, Ahead, Tx, Unavailable
from dispatcher.store.postgres_pipeline import Connection, pipeline
from dispatcher.store.postgres_tx import EVENTS, PostgresTx
from dispatcher.store.queries import postgres_statements
from dispatcher.store.schema import check, for_postgres
from dispatcher.store.writer import Again, Answers, Drafted, Waiting, Writing, on_loop, read_event

T = TypeVar("T")
READERS = 4
# How often a commit that met another dispatcher's is run.
TRIES = 5
# Longer than one look for events ever takes.
STUCK_S = 60.0
# How often the store looks for events whose notice was lost.
LOOK_S = 2.0
# Events that are read at once.
PAGE = 2000
# The advisory lock under which one process at a time changes the tables.
SCHEMA_LOCK = 4_113_200_1
BULLETINS = "ailurus_bulletins"

# A dispatcher that is stopped in the middle of a commit must not hold up the others for long.
STANDING_STILL = "set idle_in_transaction_session_timeout = '5s'"
# A lost host is noticed within some 20 s.
ALIVE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    # Milliseconds.
    "tcp_user_timeout": 15_000,
}

# Each statement has its index. Left to itself, the planner keeps a plan from when a table was small
# and reads all of it: 50 ms a heartbeat among 300,000 jobs, until the table is next analysed.
PLANS = (
    "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off"
)
# How long plans are kept: a join must not begin at a table that has grown since.
PLANS_S = 1.0

# Connections that look for our session behind a pooler.
PROBES = 8
POOLED = "a pooler between us and PostgreSQL gives a session to others between transactions"
UNPOOLED = "connect to the server itself, or set pool_mode = session for this database"
IN_THE_WAY = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
log = Log("store")


class _Text(StrDumperUnknown):
    """PostgreSQL's text has no NUL; ours (a payload's last words) may."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


class _Number(Dumper):
    """Yes and no are numbers in our tables, as SQLite has them."""

    oid = adapters.types["int8"].oid

    def dump(self, obj: bool) -> bytes:
        return b"1" if obj else b"0"


class Postgres(Writing):
    """A `Store` in a database that all dispatchers with its URL share."""

    alone = False

    def __init__(self, url: str) -> None:
        super().__init__(READERS)
        self._url = url
        self._writer: Connection | None = _connect(url)
        self._writer.execute(STANDING_STILL)
        try:
            check_sessions(url, self._writer)
            self._schema(self._writer)
        except BaseException:
            self._writer.close()
            raise
        self._known = self._last_event(self._writer)
        self._pid = _session(self._writer)
        self._plans_until = 0.0
        # Only its holder delivers events.
        self._order = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._local = threading.local()
        self._open: list[Connection] = []
        self._closing = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        self._start()
        self._ears = self.loops.thread(
            "listen", self._listen, turn_s=STUCK_S, over=self._closing.is_set
        )

    async def write(self, change: Callable[[Tx], T], ahead: Ahead = NOTHING) -> T:
        self._loop = asyncio.get_running_loop()
        return await super().write(change, ahead)

    async def publish(self, notice: str) -> None:
        """Raises ValueError if the notice is longer than PostgreSQL takes."""
        if len(notice.encode()) > NOTICE_BYTES:
            raise ValueError(f"a notice has at most {NOTICE_BYTES} bytes")

        def notify(tx: Tx) -> None:
            tx.run("bulletin.spread", channel=BULLETINS, text=notice)

        await self.write(notify)

    async def close(self) -> None:
        self._closing.set()
        os.write(self._wake_write, b"x")
        await self._stop()
        await asyncio.to_thread(self._ears.join)
        for connection in (*self._open, self._writer):
            if connection is not None:
                connection.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # --- reading ---------------------------------------------------------------------------------

    def _read(self, query: Callable[[Tx], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        try:
            if connection is None or connection.closed:
                connection = self._local.connection = _connect(self._url)
                self._open = [one for one in self._open if not one.closed] + [connection]
            tx = PostgresTx(connection, writes=False)
            with pipeline(connection) as tx.pipeline:
                connection.execute("begin isolation level repeatable read read only")
                try:
                    return query(tx)
                finally:
                    connection.execute("rollback")
        except psycopg.Error as error:
            _let_go(connection)
            raise _ours(error) from error

    # --- writing ---------------------------------------------------------------------------------

    def _next(self) -> list[Waiting]:
        return self._gathered()

    def _run(self, batch: Sequence[Waiting], draft: Drafted) -> tuple[Answers, list[Entry]]:
        way = self._once
        for nr in range(TRIES):
            try:
                if self._writer is None or self._writer.closed:
                    self._writer = _connect(self._url)
                    self._writer.execute(STANDING_STILL)
                    self._pid = _session(self._writer)
                return way(self._writer, batch)
            except Again:
                way = self._each
            except IN_THE_WAY as error:
                log.info("commit_in_the_way", reason=str(error).splitlines()[0], tries=nr + 1)
                time.sleep(random.uniform(0, 0.02 * 2**nr))
            except _OF_A_CHANGE as error:
                # What all changes of a commit share.
                if way == self._each:
                    raise Unavailable(str(error)) from error
                way = self._each
            except psycopg.Error as error:
                _let_go(self._writer)
                raise Unavailable(str(error)) from error
        raise Unavailable("other dispatchers were in the way")

    def _once(
        self, connection: Connection, batch: Sequence[Waiting]
    ) -> tuple[Answers, list[Entry]]:
        """Run all changes in one pipeline. Raises Again if one fails after it has written."""
        answers: Answers = []
        tx = PostgresTx(connection, writes=True, shares=True)
        with _undone(connection, tx), pipeline(connection) as tx.pipeline:
            connection.execute("begin")
            if time.monotonic() > self._plans_until:
                connection.execute("discard plans")
                self._plans_until = time.monotonic() + PLANS_S
            tx.foresee(ahead for _, _, ahead in batch)
            for change, _, _ in batch:
                tx.wrote = False
                try:
                    answers.append((change(tx), None))
                except psycopg.Error:
                    raise
                except Exception as error:  # noqa: BLE001 -- the caller's: it travels to who asked
                    if tx.wrote:
                        raise Again from None
                    answers.append((None, error))
            tx.settle()
        return answers, tx.numbered()

    def _each(
        self, connection: Connection, batch: Sequence[Waiting]
    ) -> tuple[Answers, list[Entry]]:
        """Run each change in a savepoint of its own, so that one that fails harms no other."""
        answers: Answers = []
        tx = PostgresTx(connection, writes=True)
        with _undone(connection, tx):
            connection.execute("begin")
            for change, _, _ in batch:
                point = tx.mark()
                connection.execute("savepoint change")
                try:
                    answers.append((change(tx), None))
                except Exception as error:
                    if isinstance(error, psycopg.Error) and not isinstance(error, _OF_A_CHANGE):
                        raise
                    if isinstance(error, psycopg.ProgrammingError):
                        self.loops.once_failed("commits", error)
                    connection.execute("rollback to change")
                    tx.back_to(point)
                    answers.append((None, _ours(error)))
                connection.execute("release change")
            tx.settle()
        return answers, tx.numbered()

    def _committed(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[Waiting],
        answers: Answers,
        events: list[Entry],
    ) -> None:
        """Deliver events in order: at once, unless another dispatcher's must be read first."""
        with self._order:
            mine: Sequence[Entry] = ()
            if events and events[0].seq == self._known + 1:
                self._known = events[-1].seq
                mine = events
            on_loop(loop, self._answer, batch, answers, mine)

    # --- events of other dispatchers -------------------------------------------------------------

    def _listen(self, kept: Loop) -> None:
        with _connect(self._url) as connection, selectors.DefaultSelector() as heard:
            for source in (connection, self._wake_read):
                heard.register(source, selectors.EVENT_READ)
            for channel in (EVENTS, BULLETINS):
                connection.execute(f"listen {channel}")
            self._follow(connection, heard, kept)

    def _follow(self, connection: Connection, heard: selectors.BaseSelector, kept: Loop) -> None:
        looked, others = 0.0, True
        session = _session(connection)
        while not self._closing.is_set():
            if time.monotonic() - looked >= LOOK_S and _session(connection) != session:
                raise AilurusError(POOLED, field="--store", remedy=UNPOOLED)
            if others or time.monotonic() - looked >= LOOK_S:
                self._catch_up(connection, kept)
                looked, others = time.monotonic(), False
            kept.turned(LOOK_S)
            heard.select(LOOK_S)
            for notice in connection.notifies(timeout=0):
                # What we commit is delivered without being read again.
                if notice.channel == EVENTS:
                    others |= notice.pid != self._pid
                elif self._loop is not None:
                    on_loop(self._loop, self._deliver, notice.payload)

    def _catch_up(self, connection: Connection, kept: Loop) -> None:
        """Deliver the events that other dispatchers have committed."""
        text = postgres_statements()["event.after"].for_psycopg().encode()
        while self._loop is not None:
            kept.turned()
            with self._order:
                rows = connection.execute(text, {"after": self._known, "most": PAGE}).fetchall()
                if rows:
                    self._known = rows[-1][0]
                    on_loop(self._loop, self._tell, [read_event(row) for row in rows])
            if len(rows) < PAGE:
                return

    # --- tables ----------------------------------------------------------------------------------

    @staticmethod
    def _last_event(connection: Connection) -> int:
        row = connection.execute("select last from series where name = 'event'").fetchone()
        return int(row[0]) if row else 0

    def _schema(self, connection: Connection) -> None:
        """Apply the `pre` steps before we serve; `finish_schema` applies the others."""
        try:
            _apply(connection, post=False)
        except Unfit as unfit:
            raise AilurusError(str(unfit), field="--store", remedy=unfit.remedy) from None

    async def finish_schema(self) -> bool:
        return await asyncio.to_thread(self._finish)

    def _finish(self) -> bool:
        try:
            with _connect(self._url) as connection:
                # Every other request waits behind one that waits for a table.
                connection.execute("set lock_timeout = '2s'")
                _apply(connection, post=True)
        except (psycopg.OperationalError, Unavailable) as error:
            log.info("schema_not_finished", reason=str(error).splitlines()[0])
            return False
        return True


def _apply(connection: Connection, *, post: bool) -> None:
    """Apply `pre` steps in their order, and with `post` all steps. Raises Unfit."""
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        connection.execute(
            "create table if not exists migration "
            "(number bigint primary key, name text, digest text, applied timestamptz)"
        )
        done = connection.execute("select number, digest, name from migration").fetchall()
        # No other dispatcher can be on an empty database.
        fresh = not done
        for step in check({nr: text for nr, text, _ in done}, {nr: name for nr, _, name in done}):
            if step.post and not (post or fresh):
                continue
            connection.execute(for_postgres(step).encode(), prepare=False)
            connection.execute(
                "insert into migration values (%s, %s, %s, now())",
                (step.number, step.name, step.digest),
            )


@contextlib.contextmanager
def _undone(connection: Connection, tx: PostgresTx) -> Iterator[None]:
    """Roll back what a block that fails leaves, in memory too."""
    try:
        yield
    except BaseException:
        tx.unassign()
        try:
            connection.execute("rollback")
        except psycopg.Error:
            _let_go(connection)
        raise


# Errors that the values of one change can cause. A missing table, a revoked right or a statement
# that a pooler lost is a fault of the database, whatever the change.
_OF_VALUES = (psycopg.DataError, psycopg.IntegrityError)
_OF_A_CHANGE = (*_OF_VALUES, psycopg.ProgrammingError)


def _connect(url: str) -> Connection:
    """A connection that commits each statement unless told otherwise. Raises Unavailable."""
    try:
        connection = psycopg.connect(url, autocommit=True, **ALIVE)
    except psycopg.OperationalError as error:
        raise Unavailable(str(error)) from error
    try:
        connection.execute(PLANS)
    except psycopg.Error as error:
        _let_go(connection)
        raise Unavailable(str(error)) from error
    connection.adapters.register_dumper(str, _Text)
    connection.adapters.register_dumper(bool, _Number)
    return connection


def _session(connection: Connection) -> int:
    """The server's process behind a connection, which libpq does not know behind a pooler."""
    row = connection.execute("select pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def check_sessions(url: str, connection: Connection) -> None:
    """Raise AilurusError if a pooler lends the session of `connection` to other clients.

    What we set, prepare and listen to would be theirs, and our events would reach no other.
    """
    session = _session(connection)
    pooled = session != connection.info.backend_pid
    others: list[Connection] = []
    try:
        for _ in range(PROBES if pooled else 1):
            others.append(other := _connect(url))
            # So that each connection has a session of its own.
            other.execute("begin")
            if _session(other) == session:
                raise AilurusError(POOLED, field="--store", remedy=UNPOOLED)
    # The pooler lets not even a transaction through.
    except errors.ProtocolViolation as error:
        raise AilurusError(
            f"{POOLED}: {str(error).strip()}", field="--store", remedy=UNPOOLED
        ) from None
    except psycopg.Error as error:
        raise Unavailable(str(error)) from error
    finally:
        for other in others:
            _let_go(other)


def _let_go(connection: Connection | None) -> None:
    """Close a connection whose state is unknown."""
    if connection is not None:
        with contextlib.suppress(psycopg.Error):
            connection.close()


def _ours(error: Exception) -> Exception:
    """The error that the port promises instead of this one."""
    if isinstance(error, errors.NumericValueOutOfRange):
        return OverflowError(str(error))
    if isinstance(error, psycopg.Error) and not isinstance(error, _OF_VALUES):
        return Unavailable(str(error))
    return error
