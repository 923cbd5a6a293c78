"""The bound on the sizes of jobs that a user has in a queue.

Each size has an index range and a counter, at which every acquire in the queue looks. The first
`MOST` sizes that wait have a lane each; jobs of further sizes share one, the user's *mixed* lane,
in the order of their turns. An acquire looks at the first `LOOKED_AT` jobs of it, each with its own
size, so jobs that fit nowhere hold up only those behind them in the same lane.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

from ailurus.protocol.resources import Room, Shape
from dispatcher.memory.waiting import LEAST
from dispatcher.ports import Tx
from dispatcher.rules import records
from dispatcher.rules.group_turns import Carried, Turns

MOST = 32
LOOKED_AT = 100
# A lane counts so long at least: jobs of this very commit are in no counter yet.
NEW_S = 60.0


class Lanes:
    """Numbers the lanes of jobs that one user submits in one commit."""

    def __init__(
        self,
        tx: Tx,
        owner: str,
        group: str,
        turns: Turns,
        shapes: MutableMapping[int, Shape],
        now: float,
    ) -> None:
        """`shapes`: of the service; new ones are added with the change, for the next lease."""
        self._tx, self._owner, self._group, self._turns = tx, owner, group, turns
        self._shapes, self._now = shapes, now
        # Lanes, by queue.
        self._left: dict[str, int] = {}
        self._known: dict[tuple[str, Shape, Carried], int] = {}

    def number(self, queue: str, shape: Shape, carried: Carried = Carried.NOTHING) -> int:
        """The number under which a job is counted and found; `carried`: by it."""
        kind = (queue, shape, carried)
        found = self._known.get(kind)
        if found is None:
            found = self._known[kind] = self._found(*kind)
        return found

    def mixed(self, number: int) -> bool:
        """Whether the job's own size is to be kept beside it."""
        return self._turns.mixed(self._tx, number)

    def _found(self, queue: str, shape: Shape, carried: Carried) -> int:
        tx, mine = self._tx, {"queue": queue, "owner": self._owner}
        if (found := records.find_shape(tx, shape)) is not None:
            number = self._lane(found, carried)
            if tx.one("variety.has", **mine, shape_id=number) is not None:
                tx.assign(self._shapes, number, shape)
                return number
        if self._room(queue) <= 0:
            number = self._lane(_shape_id(tx, LEAST), carried, self._owner)
            tx.assign(self._shapes, number, LEAST)
            return number
        number = self._lane(_shape_id(tx, shape), carried)
        tx.run("variety.add", **mine, shape_id=number, now=self._now)
        self._left[queue] -= 1
        tx.assign(self._shapes, number, shape)
        return number

    def _lane(self, shape_id: int, carried: Carried, owner: str = "") -> int:
        return self._turns.lane(self._tx, shape_id, self._group, owner, carried=carried)

    def _room(self, queue: str) -> int:
        """How many more lanes of their own the user's jobs may have in a queue."""
        if queue not in self._left:
            tx, mine = self._tx, {"queue": queue, "owner": self._owner}
            count = _count(tx, mine)
            if count >= MOST:
                tx.run("variety.tidy", **mine, before=self._now - NEW_S)
                count = _count(tx, mine)
            self._left[queue] = MOST - count
        return self._left[queue]


def ready(
    tx: Tx, queue: str, number: int, most: int, room: Room, suits: Callable[[Shape], bool]
) -> list[tuple[int, float, int, Shape]]:
    """Of the first jobs of a mixed lane those that fit and suit, as they are merged with others."""
    found = records.ready_sized(tx, queue, number, max(most, LOOKED_AT))
    return [
        (-priority, rank, job_id, shape)
        for priority, rank, job_id, shape in found
        if shape.fits(room) and suits(shape)
    ]


def _shape_id(tx: Tx, shape: Shape) -> int:
    found = records.find_shape(tx, shape)
    return records.add_shape(tx, shape) if found is None else found


def _count(tx: Tx, mine: dict[str, str]) -> int:
    return records.value(tx.one("variety.count", **mine), 0)
