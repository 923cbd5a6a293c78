"""The edge's memory: one SQLite file. What it says was done is on disk before it is done.

A row of `worker` is an intent before anything else: it is committed as `planned`, committed as
`submitting` before the submit command runs, and gets its outcome after. `why`, `status`, `workers`
and `trace` read this file and nothing else, so they work while the edge or the dispatcher is down.
"""

from __future__ import annotations

import os
import re
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from ailurus.migrations import migrate, steps_in
from ailurus.protocol.errors import AilurusError
from harvester_edge.decide import Decision, Health
from harvester_edge.evidence import Worker

MIGRATIONS = files("harvester_edge").joinpath("migrations", "book")
_FIELDS = Worker.__struct_fields__
_COLUMNS = ", ".join(f'"{name}"' for name in _FIELDS)
_UPSERT = (
    f"insert into worker ({_COLUMNS}, news) values ({', '.join('?' * len(_FIELDS))}, 1) "  # noqa: S608
    f'on conflict (intent, "index") do update set news = 1, '
    + ", ".join(f'"{name}" = excluded."{name}"' for name in _FIELDS[2:])
)
DECISIONS_KEPT = 2000
_ARRAY = re.compile(r"([0-9]+)(?:_\[[^\]]*\]|\[\].*)?\Z")
"""As they are listed: `1001`, Slurm's `1001_[3-9]`, PBS's `1001[].server`."""
DAY_S = 86_400


class Decided(msgspec.Struct, frozen=True):
    """A decision, and since when it holds."""

    at: float
    site_file: str
    decision: Decision


class BookUnwritable(AilurusError):
    """The disk does not take what is to be written down; nothing of it has happened."""


_DISK = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
)


_SPOILT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""The file is there, and is no book or not a whole one."""
BEGIN_ANEW = (
    "if no edge runs, move the files book.sqlite* away: a new one waits for the lease of the last (two "
    "minutes) and adopts the workers that the batch system has"
)


class _Connection(sqlite3.Connection):
    """Tells a bad disk from a bad statement."""

    def execute(self, *words: Any) -> sqlite3.Cursor:
        with _of_the_disk():
            return super().execute(*words)

    def executemany(self, *words: Any) -> sqlite3.Cursor:
        with _of_the_disk():
            return super().executemany(*words)


@contextmanager
def _of_the_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        # The low byte says of what kind it is.
        if error.sqlite_errorcode & 0xFF not in _DISK:
            raise
        raise BookUnwritable(
            f"the book cannot be written: {error}",
            field="paths.state",
            remedy="make room on its disk, or make it writable: the edge then goes on by itself",
        ) from None


def connected(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A file of the edge's, whose changes are on disk when they are done. What a bad disk refuses
    is raised as BookUnwritable."""
    if not read_only:
        # Whatever the umask, nobody else writes it.
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
    uri = f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
    found = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30.0, factory=_Connection)
    try:
        if not read_only:
            found.execute("pragma journal_mode = wal")
            found.execute("pragma synchronous = full")
    except BaseException:
        found.close()
        raise
    return found


class Book:
    """The book of one site's edge, in its state directory."""

    def __init__(self, path: Path, *, site: str = "", read_only: bool = False) -> None:
        """Raises AilurusError if the book cannot be opened, or is another site's."""
        self.path = path
        if read_only and not path.exists():
            raise AilurusError(
                f"no edge has run here yet: {path} does not exist",
                remedy="start one with `harvester-edge run`, or is paths.state another directory?",
            )
        try:
            self._db = connected(path, read_only=read_only)
            if not read_only:
                migrate(self._db, steps_in(MIGRATIONS), path, adopted=_adopted)
            if site:
                self._belongs_to(site)
        except sqlite3.Error as error:
            self._let_go()
            spoilt = getattr(error, "sqlite_errorcode", 0) & 0xFF in _SPOILT
            remedy = BEGIN_ANEW if spoilt else "is it a local, writable disk?"
            raise AilurusError(f"cannot use {path}: {error}", remedy=remedy) from None
        except AilurusError:
            self._let_go()
            raise

    def _let_go(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """What is done inside is on disk together, or not at all."""
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            # A full disk may have rolled it back.
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise

    def _belongs_to(self, site: str) -> None:
        owner = self.meta("site")
        if owner not in ("", site) and self._used():
            raise AilurusError(
                f"{self.path} is the book of site {owner}",
                field="paths.state",
                remedy=f"give {site} a state directory of its own",
            )

    def _used(self) -> bool:
        """Whether an edge has had its site with this book: one that never got so far claims
        nothing."""
        (known,) = self._db.execute("select exists (select 1 from worker)").fetchone()
        return bool(known) or bool(self.meta("epoch"))

    def claim(self, site: str) -> None:
        """The book is of that site from now on: its dispatcher has let this edge have it."""
        if self.meta("site") != site:
            self.set_meta("site", site)

    def meta(self, name: str, default: str = "") -> str:
        """The value of a name; `default` is written if there is none yet."""
        row = self._db.execute("select value from meta where name = ?", (name,)).fetchone()
        if row is None and default:
            self._db.execute("insert into meta (name, value) values (?, ?)", (name, default))
        return str(row[0]) if row else default

    def set_meta(self, name: str, value: str) -> None:
        self._db.execute("insert or replace into meta (name, value) values (?, ?)", (name, value))

    def answers_since(self) -> float | None:
        """Since when the dispatcher answers without a gap; None: it does not."""
        since = self.meta("answers_since")
        return float(since) if since else None

    def set_answers_since(self, since: float | None) -> None:
        """Written only when it changes."""
        if since == self.answers_since():
            return
        if since is None:
            self._db.execute("delete from meta where name = 'answers_since'")
        else:
            self.set_meta("answers_since", repr(since))

    def instance(self) -> str:
        """This edge's name at the dispatcher: a restarted edge gets its site back at once. A copy
        of the book, whose original may be in use, has another name."""
        here = _place(self.path)
        there = self.meta("instance_of", here)
        if there == here:
            return self.meta("instance", uuid.uuid4().hex)
        if not _same_place(there, here):
            self.set_meta("instance", uuid.uuid4().hex)
        self.set_meta("instance_of", here)
        return self.meta("instance")

    # workers -------------------------------------------------------------------------------------

    def keep(self, workers: Iterable[Worker]) -> None:
        """Write workers, as changed since the last report."""
        self._db.executemany(_UPSERT, (_row(worker) for worker in workers))

    def live(self) -> list[Worker]:
        """Workers that have not ended."""
        return self._workers("where phase != 'ended'")

    def phases(self) -> Counter[tuple[str, str]]:
        """Workers that have not ended, by slot and phase."""
        return self._counts(
            "select slot, phase, count(*) from worker where phase != 'ended' group by 1, 2"
        )

    def endings(self) -> Counter[tuple[str, str]]:
        """Workers that have ended and are still known, by slot and ending."""
        return self._counts(
            "select slot, ending, count(*) from worker where phase = 'ended' group by 1, 2"
        )

    def _counts(self, query: str) -> Counter[tuple[str, str]]:
        return Counter({(slot, what): n for slot, what, n in self._db.execute(query)})

    def get(self, intent: str, index: int) -> Worker | None:
        found = self._workers('where intent = ? and "index" = ?', intent, index)
        return found[0] if found else None

    def of_intent(self, intent: str) -> list[Worker]:
        return self._workers("where intent = ?", intent)

    def recent(self, limit: int = 100) -> list[Worker]:
        """Workers that live, then the ones that ended last."""
        return self._workers("order by phase = 'ended', ended desc, planned desc limit ?", limit)

    def search(self, name: str) -> list[Worker]:
        """Workers by intent, intent.index, batch id, the batch id of a whole array or cluster, or
        the dispatcher's worker id."""
        array = _ARRAY.match(name)
        # More digits than SQLite's integers have name no worker.
        number = int(name) if array and len(name) < 19 and name.isdecimal() else -1
        found = self._workers(
            "where intent = ? or batch_id = ? or worker_id = ? "
            "or intent || '.' || \"index\" = ? order by intent, \"index\"",
            name, name, number, name,
        )  # fmt: skip
        if array is None or (found and not name.isdecimal()):
            return found
        # `1001` of 1001_29 (Slurm), 1001[29].server (PBS) and 1001.29 (HTCondor)
        more = self._workers('where batch_id glob ? order by intent, "index"', f"{array[1]}[[_.]*")
        return [*found, *(one for one in more if one not in found)]

    def unreported(self, limit: int = 5000) -> list[Worker]:
        """Workers of which the dispatcher does not know the latest."""
        return self._workers("where news = 1 and phase != 'planned' limit ?", limit)

    def reported(self, workers: Sequence[Worker]) -> None:
        self._db.executemany(
            'update worker set news = 0 where intent = ? and "index" = ?',
            [worker.key for worker in workers],
        )

    def forget(self, before: float) -> list[str]:
        """Drop intents all of whose workers ended before that time; returns their names."""
        rows = self._db.execute(
            "select intent from worker group by intent having max(coalesce(ended, 1e18)) < ? limit 500",
            (before,),
        ).fetchall()
        self._db.executemany("delete from worker where intent = ?", rows)
        return [str(row[0]) for row in rows]

    def _workers(self, rest: str, *values: object) -> list[Worker]:
        rows = self._db.execute(f"select {_COLUMNS} from worker {rest}", values)  # noqa: S608
        return [msgspec.convert(dict(zip(_FIELDS, row, strict=True)), Worker) for row in rows]

    # decisions -----------------------------------------------------------------------------------

    def decided(self, at: float, site_file: str, decision: Decision) -> None:
        """Keep a decision; the caller says it only when it differs from the last."""
        text = msgspec.json.encode(decision).decode()
        self._db.execute(
            "insert into decision (at, site_file, decision) values (?, ?, ?)", (at, site_file, text)
        )
        self._db.execute(
            "delete from decision where id <= (select max(id) from decision) - ?", (DECISIONS_KEPT,)
        )

    def decisions(self, limit: int = 1) -> list[Decided]:
        """The latest decisions, newest first."""
        rows = self._db.execute(
            "select at, site_file, decision from decision order by id desc limit ?", (limit,)
        )
        return [
            Decided(at, name, msgspec.json.decode(text, type=Decision)) for at, name, text in rows
        ]

    # accounts ------------------------------------------------------------------------------------

    def spend(self, at: float, node_hours: float) -> None:
        """Charge node-hours of an ended worker to the day of its end."""
        self._db.execute(
            "insert into spent (day, node_hours) values (?, ?) on conflict do update "
            "set node_hours = node_hours + excluded.node_hours",
            (int(at // DAY_S), node_hours),
        )

    def spent(self, since: float) -> float:
        """Node-hours charged since a day began."""
        row = self._db.execute(
            "select coalesce(sum(node_hours), 0) from spent where day >= ?", (int(since // DAY_S),)
        ).fetchone()
        return float(row[0])

    def health(self, slot: str) -> Health:
        row = self._db.execute(
            "select failures, since, reason from health where slot = ?", (slot,)
        ).fetchone()
        return Health(failures=row[0], since=row[1], reason=row[2]) if row else Health()

    def set_health(self, slot: str, health: Health) -> None:
        self._db.execute(
            "insert or replace into health (slot, failures, since, reason) values (?, ?, ?, ?)",
            (slot, health.failures, health.since, health.reason),
        )


def _adopted(db: sqlite3.Connection) -> list[int]:
    """The steps that a book of a version before the table of migrations has."""
    (version,) = db.execute("pragma user_version").fetchone()
    (missing,) = db.execute(
        "select count(*) from pragma_table_info('worker') where name = 'missing'"
    ).fetchone()
    return [*range(1, version + 1), *([3] if missing else [])]


MACHINE_ID = Path("/etc/machine-id")


def _place(path: Path) -> str:
    """Which file a book is, and on which machine."""
    machine = MACHINE_ID.read_text("utf-8", "replace").split() if MACHINE_ID.is_file() else []
    return " ".join([str(path.stat().st_ino), os.uname().nodename, *machine[:1]])


def _same_place(there: str, here: str) -> bool:
    """Whether both are the same file, of one machine: renamed, or a container that begins again, it
    is the same as long as one of its names is."""
    (was, *old), (now, *new) = there.split(" "), here.split(" ")
    return was == now and (old[:1] == new[:1] or old[1:] == new[1:])


def _row(worker: Worker) -> tuple[Any, ...]:
    return msgspec.structs.astuple(worker)
