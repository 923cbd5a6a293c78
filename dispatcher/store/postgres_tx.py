"""A transaction on PostgreSQL that seldom waits for the server.

A round trip costs both sides some 0.05 ms, a statement half as much. So a commit reads ahead, in
one round trip, what its changes announced in their `Ahead`; and it writes late: rows are gathered
and sent as one statement for all of them. A change notices neither. What was read ahead is
forgotten as soon as something is written on which it may depend, and gathered rows are sent before
any statement that names their table. Which tables a statement names, it declares in `sql/`. See
`docs/commits.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.query import Query
from ailurus.protocol.states import JobState
from dispatcher.events import Entry
from dispatcher.ports import Ahead, Row
from dispatcher.store.postgres_pipeline import Connection, Pipeline, pipeline
from dispatcher.store.queries import fragments, postgres_statements
from dispatcher.store.searching import searched
from dispatcher.store.writer import Draft, event_row

EVENTS = "ailurus_events"
# Ready jobs read for the later changes of a commit, at most.
MORE = 512

# Rows that are sent in one statement, at most.
PART = 1000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[int]).decode
_STATEMENTS = postgres_statements()
_FRAGMENTS = fragments(postgres=True)
_READER = {name: one.for_psycopg().encode() for name, one in _STATEMENTS.items()}
_WRITER = {name: one.for_psycopg(locking=True).encode() for name, one in _STATEMENTS.items()}
_TABLES = {name: one.reads | one.writes for name, one in _STATEMENTS.items()}
READING_AHEAD = (
    "job.standings",
    "job.ready_whole",
    "attempt.known",
    "attempt.of_requests",
    "counter.all_ready",
)
_READ_AHEAD = frozenset().union(*(_TABLES[name] for name in READING_AHEAD))


class _Shelf(Struct):
    """Ready jobs of one queue and shape that this commit has locked, best first."""

    rows: dict[int, Row]
    whole: bool
    """No other jobs were ready."""


class PostgresTx(Draft):
    """A transaction on one connection.

    Statements without an answer wait on the client until one with an answer is sent.
    """

    def __init__(self, connection: Connection, *, writes: bool, shares: bool = False) -> None:
        """`writes`: statements lock rows; `shares`: many changes run in it, none in a savepoint."""
        super().__init__()
        self._connection = connection
        self._texts = _WRITER if writes else _READER
        self._numbers: psycopg.Cursor[Row] | None = None
        self._shares = shares
        self.pipeline: Pipeline | None = None
        # Jobs that the changes of this commit request together.
        self._more = 0
        self._forget()
        self._late: dict[str, list[bytes]] = {}
        self._late_rows: set[tuple[Any, ...]] = set()
        self._late_tables: set[str] = set()
        self._answer: dict[str, Callable[[Mapping[str, Any]], list[Row] | None]] = {
            "job.standing": lambda parameters: _known(self._standing, parameters["job_id"]),
            "attempt.get": lambda parameters: _known(
                self._attempts, (parameters["job_id"], parameters["attempt_nr"])
            ),
            "attempt.of_request": lambda parameters: self._requests.get(
                (parameters["worker_id"], parameters["request"])
            ),
            "counter.ready": lambda parameters: self._counters.get(parameters["queue"]),
            "job.ready": self._ready,
            "body.get": lambda parameters: _known(self._bodies, parameters["job_id"]),
        }

    def _forget(self) -> None:
        self._standing: dict[int, Row] = {}
        self._attempts: dict[tuple[int, int], Row] = {}
        self._requests: dict[tuple[int, str], list[Row]] = {}
        self._counters: dict[str, list[Row]] = {}
        self._shelves: dict[tuple[str, int], _Shelf] = {}
        self._bodies: dict[int, Row] = {}

    # --- reading ahead ---------------------------------------------------------------------------

    def foresee(self, aheads: Iterable[Ahead]) -> None:
        """Read in one round trip what the changes announced, and lock the jobs among it.

        Jobs are locked in the order of their ids, so that no two commits wait for each other.
        """
        jobs: set[int] = set()
        attempts: set[int] = set()
        asks = []
        for ahead in aheads:
            jobs.update(ahead.jobs)
            if ahead.attempts:
                attempts.update(ahead.jobs)
            if ahead.ask is not None:
                asks.append(ahead.ask)
        self._more = min(MORE, sum(ask.count for ask in asks))
        held = self._list("job.standings", jobs)
        known = self._list("attempt.known", attempts)
        again = ready = None
        if asks:
            again = self._ask("attempt.of_requests", {"rows": _encode(asks).decode()})
            ready = self._ask("counter.all_ready", {})
        if self.pipeline is not None and (jobs or asks):
            self.pipeline.sync()
        if held is not None:
            self._standing = {row[0]: row[1:] for row in held.fetchall()}
        if known is not None:
            self._attempts = {row[:2]: row[2:] for row in known.fetchall()}
        if again is not None and ready is not None:
            self._requests = {(ask.worker_id, ask.request): [] for ask in asks}
            for worker_id, request, *rest in again.fetchall():
                self._requests[worker_id, request].append(tuple(rest))
            rows = ready.fetchall()
            for queue in {ask.queue for ask in asks}:
                self._counters[queue] = [row for row in rows if row[0] in (queue, "")]

    def _list(self, query: str, ids: set[int]) -> psycopg.Cursor[Row] | None:
        return self._ask(query, {"ids": _encode(sorted(ids)).decode()}) if ids else None

    def _ready(self, parameters: Mapping[str, Any]) -> list[Row] | None:
        if not self._more:
            return None
        most, place = parameters["most"], (parameters["queue"], parameters["shape_id"])
        shelf = self._shelves.get(place)
        if shelf is None or (len(shelf.rows) < most and not shelf.whole):
            wanted = most + self._more
            rows = self._now("job.ready_whole", {**parameters, "most": wanted}).fetchall()
            shelf = _Shelf({row[0]: row for row in rows}, len(rows) < wanted)
            self._shelves[place] = shelf
            self._bodies.update((row[0], row[3:5]) for row in rows)
            self._standing.update((row[0], row[5:]) for row in rows)
        return [row[:3] for row in islice(shelf.rows.values(), most)]

    # --- statements ------------------------------------------------------------------------------

    def one(self, query: str, **values: Any) -> Row | None:
        answer = self._answer.get(query)
        if answer is not None and (rows := answer(values)) is not None:
            return rows[0] if rows else None
        return self._now(query, values).fetchone()

    def all(self, query: str, **values: Any) -> list[Row]:
        answer = self._answer.get(query)
        if answer is not None and (rows := answer(values)) is not None:
            return rows
        return self._now(query, values).fetchall()

    def search(self, query: str, wanted: Query, now: float, **values: Any) -> list[Row]:
        statement = _STATEMENTS[query]
        text, more = searched(statement.text, wanted, now, _FRAGMENTS)
        asked = replace(statement, text=text).for_psycopg().encode()
        cursor = self._connection.execute(asked, {**values, **more})
        if self.pipeline is not None:
            self.pipeline.sync()
        return cursor.fetchall()

    def run(self, query: str, **values: Any) -> None:
        statement = _STATEMENTS[query]
        if not statement.key:
            self._ask(query, values)
            return
        self.wrote = True
        self._note(query, values)
        if not self._shares:
            self._rows(query, [_json(values)])
            return
        (table,) = statement.writes
        row = (table, *(values[name] for name in statement.key))
        if row in self._late_rows:
            self._send()
        self._late_rows.add(row)
        self._late_tables.add(table)
        self._late.setdefault(query, []).append(_json(values))

    def many(self, query: str, values: Iterable[Mapping[str, Any]]) -> None:
        statement, rows = _STATEMENTS[query], list(values)
        # Rows differ in what they make wrong only where each has its ids.
        for row in rows if statement.forgets == "ids" else rows[:1]:
            self._before(query, row)
        if statement.key:
            self._rows(query, [_json(row) for row in rows])
            return
        # Outside of a pipeline `executemany` makes one of psycopg's.
        own = pipeline(self._connection) if self.pipeline is None else nullcontext()
        with own, self._connection.cursor() as cursor:
            cursor.executemany(self._texts[query], rows)

    def _now(self, query: str, values: Mapping[str, Any]) -> psycopg.Cursor[Row]:
        cursor = self._ask(query, values)
        if self.pipeline is not None:
            # The server then counts its wait for us, and ends a transaction that stands still.
            self.pipeline.sync()
        return cursor

    def _ask(self, query: str, values: Mapping[str, Any]) -> psycopg.Cursor[Row]:
        self._before(query, values)
        return self._connection.execute(self._texts[query], values)

    def _before(self, query: str, values: Mapping[str, Any]) -> None:
        """Send the rows that a statement must find, and forget what its change makes wrong."""
        statement, tables = _STATEMENTS[query], _TABLES[query]
        if not self._late_tables.isdisjoint(tables):
            self._send()
        if not statement.writes:
            return
        self.wrote = True
        if statement.forgets == "ids":
            self._shelves.clear()
            for job_id in _decode(values["ids"]):
                self._standing.pop(job_id, None)
        elif statement.forgets != "nothing" and not _READ_AHEAD.isdisjoint(tables):
            self._forget()

    def _note(self, query: str, values: Mapping[str, Any]) -> None:
        """Forget what a gathered row makes wrong of what was read ahead."""
        job_id = values["job_id"]
        if "attempt" in _STATEMENTS[query].writes:
            self._attempts.pop((job_id, values["attempt_nr"]), None)
            if query == "attempt.add":
                self._requests.pop((values["worker_id"], values["request"]), None)
            elif query == "attempt.end":
                self._requests = {key: rows for key, rows in self._requests.items() if not rows}
            return
        self._standing.pop(job_id, None)
        if values["state"] == JobState.ACTIVATED:
            self._shelves.clear()
        for shelf in self._shelves.values():
            shelf.rows.pop(job_id, None)

    # --- writing late ----------------------------------------------------------------------------

    def _send(self) -> None:
        """Send the gathered rows, each statement once for all of its rows."""
        late, self._late = self._late, {}
        self._late_rows.clear()
        self._late_tables.clear()
        for query, rows in late.items():
            self._rows(query, rows)

    def _rows(self, query: str, rows: Sequence[bytes]) -> None:
        """Run a statement that takes many rows."""
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART]
            self._connection.execute(self._texts[query], {"rows": _array(part)})

    def settle(self) -> None:
        """Write gathered rows, sums and events once for all changes, and commit.

        It is one pipeline: the row with the last event's number is locked here, and a client that
        stands still must not keep other dispatchers waiting for it.
        """
        self._send()
        n = len(self.events)
        # Only the server knows the last number: these are counted back from it.
        if n:
            told = [_json(event_row(entry, entry.seq - n)) for entry in self.events]
            self._numbers = self._ask(
                "event.next", {"by": n, "channel": EVENTS, "rows": _array(told)}
            )
        for statement, rows in self.sums.rows():
            self.many(statement, rows)
        self._connection.execute("commit")

    def numbered(self) -> list[Entry]:
        """The events with the numbers that the server gave them; call it after the commit."""
        row = self._numbers.fetchone() if self._numbers is not None else None
        before = row[0] - len(self.events) if row is not None else 0
        return [msgspec.structs.replace(event, seq=before + event.seq) for event in self.events]


def _known(table: Mapping[Any, Row], key: Any) -> list[Row] | None:
    row = table.get(key)
    return None if row is None else [row]


def _array(rows: Sequence[bytes]) -> str:
    return (b"[" + b",".join(rows) + b"]").decode()


def _json(values: Mapping[str, Any]) -> bytes:
    """A row as a JSON object. PostgreSQL's text has no NUL; ours (a payload's last words) may."""
    line = _encode(values)
    if b"\\u0000" not in line:
        return line
    return _encode(
        {
            name: value.replace("\0", "\ufffd") if isinstance(value, str) else value
            for name, value in values.items()
        }
    )
