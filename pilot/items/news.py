"""What the run of a job's items hears of by its queue."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ailurus.protocol import messages as m
from pilot.items.inputs import Brought
from pilot.items.item import Item
from pilot.node.shares import Slot
from pilot.node_ports import Finish, Look, Standing, TaskOutput
from pilot.payload import Part
from pilot.ports import JobError


class Answered(Struct):
    answer: m.ItemsAnswer | None
    error: JobError | None = None


class Wake(Struct):
    """Look again: the job is to stop."""


class NodeLost(Struct):
    """A node of the job is lost."""

    node: str


class NodeCame(Struct):
    """A node has come to the job, and a box stands there."""

    slot: Slot
    part: Part
    standing: Standing


class LookedAt(Struct):
    """What a look at the output of items that run has found."""

    items: list[tuple[Item, Look]]
    outputs: Sequence[TaskOutput]


News = tuple[Item, Finish] | LookedAt | Answered | Wake | NodeLost | NodeCame | Brought
