"""What an instance must not forget, in one SQLite file beside the book: the numbers that it has
given to workers, what the server has asked for, whom it has told to kill.

The book's workers are the log of what has been started: a target is open as long as fewer have been
started since it came, so a crash neither loses nor doubles it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from ailurus.migrations import migrate, steps_in
from harvester_edge.book import connected
from harvester_edge.panda.translate import Target

Key = tuple[str, int]
MIGRATIONS = files("harvester_edge").joinpath("migrations", "panda")


class PandaStore:
    """One writer: the edge's own loop."""

    def __init__(self, path: Path) -> None:
        self._db = connected(path)
        try:
            migrate(self._db, steps_in(MIGRATIONS), path)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def last_id(self) -> int | None:
        """The highest number that has been given; None: none yet, nor has the server said one."""
        row = self._db.execute("select max(next) - 1 from number").fetchone()
        return None if row[0] is None else int(row[0])

    def start_after(self, after: int) -> None:
        """Give no number up to that one."""
        self._db.execute("delete from number where next <= ?", (after,))
        self._db.execute(
            "insert into number (next) select ? where not exists (select 1 from number)",
            (after + 1,),
        )

    def new_ids(self, count: int) -> range:
        """So many numbers, never given before."""
        (after,) = self._db.execute(
            "update number set next = next + ? returning next", (count,)
        ).fetchone()
        return range(after - count, after)

    def record_intent(self, intent: str, label: str, kind: str, at: float) -> None:
        """For what the workers of an intent are."""
        self._db.execute(
            "insert or replace into intent (intent, label, kind, at) values (?, ?, ?, ?)",
            (intent, label, kind, at),
        )

    def purposes(self) -> dict[str, tuple[str, str]]:
        """Label and resource type, by intent."""
        rows = self._db.execute("select intent, label, kind from intent")
        return {intent: (label, kind) for intent, label, kind in rows}

    def intents_for(self, target: Target) -> list[str]:
        """The intents that were submitted for a target since it came."""
        rows = self._db.execute(
            "select intent from intent where label = ? and kind = ? and at >= ?",
            (target.label, target.kind, target.at),
        )
        return [intent for (intent,) in rows]

    def set_targets(self, targets: Iterable[Target]) -> None:
        self._db.executemany(
            "insert or replace into wish (queue, label, kind, pilots, at) values (?, ?, ?, ?, ?)",
            list(targets),
        )

    def targets(self) -> list[Target]:
        rows = self._db.execute("select queue, label, kind, pilots, at from wish order by 1, 2, 3")
        return [Target(*row) for row in rows]

    def condemn(self, keys: Iterable[Key], at: float) -> None:
        self._db.executemany(
            'insert or ignore into condemned (intent, "index", at) values (?, ?, ?)',
            [(*key, at) for key in keys],
        )

    def condemned(self) -> frozenset[Key]:
        return frozenset(self._db.execute('select intent, "index" from condemned'))

    def forget(self, before: float, living: Sequence[str]) -> None:
        """Drop what is told of intents that are over since then."""
        for table in ("intent", "condemned"):
            old = self._db.execute(f"select distinct intent from {table} where at < ?", (before,))  # noqa: S608
            gone = [(intent,) for (intent,) in old if intent not in living]
            self._db.executemany(f"delete from {table} where intent = ?", gone)  # noqa: S608
