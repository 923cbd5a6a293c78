"""Turns between groups of users: each has its share of what a queue hands out, however many jobs
wait behind it.

Which groups there are is configured (`serve --share group:NAME=N`); everybody else is in the group
without a name. A job's group stands in its *lane*: the number of a shape and a group, which is used
wherever a shape's number is, so that counters and the index of ready jobs are kept by group at no
cost.

Whose turn it is follows start-time fair queueing: a job moves its group's clock on by its cores
over the group's share, the group with the earliest clock is next, and one that had nothing to run
meanwhile begins at the present turn. A clock moves only where another group could have had the
place. The clocks are memory: at a start, groups are even.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum

from ailurus.protocol.messages import GroupRow
from ailurus.protocol.resources import Shape
from dispatcher.ports import Tx
from dispatcher.rules import records

# Numbers of lanes begin here, those of shapes never get there.
FIRST_LANE = 10**9
_CARRIED = "\t"
"""Names of groups end in so many of it as what the jobs of the lane carry says: no group's name has
a tab."""


class Carried(IntEnum):
    """What a job carries that not every pilot can run: each can run what stands before, too."""

    NOTHING = 0
    ITEMS = 1
    FILES = 2
    """Items with inputs or outputs of their own."""
    UPLOADS = 3
    """Files that its user uploaded for it."""
    RESULT = 4
    """A result document that is to come back."""
    SHARED = 5
    """Items of a step that other jobs run, too."""


Ready = tuple[str, int, int]
"""How many jobs are ready: queue, lane, number (`counter.ready`)."""
Candidate = tuple[int, Shape, str | None]
"""A ready job, its shape, and its group if others of another group wait as well."""


def group_of(names: Iterable[str], shares: Mapping[str, float]) -> str:
    """The group in which a user takes turns: the first of the token's that is configured, by its
    own name or by that of a group above it (`/atlas` for `/atlas/production`)."""
    for name in names:
        above = name
        while above:
            if above in shares:
                return above
            above = above.rpartition("/")[0]
    return ""


def turns_of(queue: str, group: str) -> str:
    """The name under which a group's users take turns in a queue; no queue's name has a line
    break."""
    return f"{queue}\n{group}" if group else queue


class Turns:
    """Whose turn it is in each queue, as this dispatcher has handed out jobs. Changes move it."""

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self.shares = dict(shares or {})
        # Of lanes: the group's, for many sizes with the owner's.
        self._names: dict[int, str] = {}
        # By queue and group.
        self._clocks: dict[tuple[str, str], float] = {}
        # The turn that was taken last, by queue.
        self._now: dict[str, float] = {}
        self.taken: Counter[tuple[str, str]] = Counter()
        """Cores handed out since the start, by queue and group, where there were several."""

    def share(self, group: str) -> float:
        """A group's share, beside those of the others."""
        return self.shares.get(group, 1.0)

    def lane(
        self,
        tx: Tx,
        shape_id: int,
        group: str,
        owner: str = "",
        *,
        carried: Carried = Carried.NOTHING,
    ) -> int:
        """The number of a shape in a group; of an `owner` one for jobs of many sizes, see
        `variety`; `carried`: what the jobs carry."""
        group += _CARRIED * carried
        name = f"{group}\n{owner}" if owner else group
        if not name:
            return shape_id
        row = tx.one("lane.find", of_shape=shape_id, user_group=name) or tx.one(
            "lane.add", of_shape=shape_id, user_group=name
        )
        number = records.value(row, shape_id)
        tx.assign(self._names, number, name)
        return number

    def group(self, tx: Tx, number: int) -> str:
        """The group of a lane; of a shape's own number it is the one without a name."""
        return self._name(tx, number).partition("\n")[0].rstrip(_CARRIED)

    def carried(self, tx: Tx, number: int) -> Carried:
        """What the jobs of a lane carry."""
        return Carried(self._name(tx, number).partition("\n")[0].count(_CARRIED))

    def mixed(self, tx: Tx, number: int) -> bool:
        """Whether a lane holds jobs of many sizes."""
        return "\n" in self._name(tx, number)

    def _name(self, tx: Tx, number: int) -> str:
        if number < FIRST_LANE:
            return ""
        # Another process was the first to meet it.
        if number not in self._names:
            for one, name in tx.all("lane.all"):
                tx.assign(self._names, one, name)
        return self._names[number]

    def rows(self, tx: Tx, queue: str, ready: Iterable[Ready]) -> list[GroupRow]:
        """The groups whose jobs wait for workers of a queue, by what is `ready` in queues and
        lanes; none if nobody is in a group."""
        waiting: Counter[str] = Counter()
        for name, number, n in ready:
            if name in (queue, ""):
                waiting[self.group(tx, number)] += n
        known = {name for at, name in list(self.taken) if at == queue} | waiting.keys()
        if not known - {""}:
            return []
        all_shares = sum(self.share(name) for name in waiting)
        return [
            GroupRow(
                name=name,
                share=self.share(name),
                waiting=waiting[name],
                due=self.share(name) / all_shares if name in waiting else 0.0,
                handed_out=self.taken[queue, name],
            )
            for name in sorted(known)
        ]

    def merged(
        self, queue: str, offers: Mapping[str, Iterator[tuple[int, Shape]]]
    ) -> Iterator[Candidate]:
        """The jobs that groups offer a worker of `queue`, in the order of their turns. The caller
        calls `take` for a job that it leases before it takes the next one."""
        left = {group: offers[group] for group in sorted(offers)}
        while left:
            group = min(left, key=lambda one: self._clock(queue, one))
            candidate = next(left[group], None)
            if candidate is None:
                del left[group]
                continue
            yield *candidate, group

    def _clock(self, queue: str, group: str) -> float:
        """A group's clock; one that had nothing to run is at the present turn."""
        return max(self._clocks.get((queue, group), 0.0), self._now.get(queue, 0.0))

    def take(self, tx: Tx, queue: str, group: str, cores: int) -> None:
        """A job of a group goes to a worker of `queue`, which another group could have had."""
        clock, cores = self._clock(queue, group), max(1, cores)
        tx.assign(self._now, queue, clock)
        tx.assign(self._clocks, (queue, group), clock + cores / self.share(group))
        tx.assign(self.taken, (queue, group), self.taken[queue, group] + cores)
