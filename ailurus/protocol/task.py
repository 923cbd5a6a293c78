"""A task: steps that turn items into jobs.

An item is a value of a list or a range, a file of a data set, one that a job of another step has
made, or a point that a planner says. Items have numbers in their step, in the order in which they
became known; a job takes some that follow one another.
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any

from msgspec import Meta, Struct

from ailurus.protocol.did import SCHEME, Did
from ailurus.protocol.fields import Name, Text, Variable
from ailurus.protocol.payloads import ALL, Goal
from ailurus.protocol.search import Ask

MOST_STEPS = 100
MOST_LISTED = 100_000
"""Items of a list. A range may have `MOST_ITEMS`."""
MOST_ITEMS = 10_000_000
MOST_TOGETHER = 10_000
"""Items of one job: as many inputs as it may have."""
LONGEST_ITEM = 65_536
"""Characters of one item, as JSON."""

MOST_CONSUMERS = 1000
"""Jobs that lease items of a step at once."""
MOST_STAGING = 10_000
"""Files of a step that are kept at a storage at once."""

Size = (
    Annotated[int, Meta(ge=1, le=2**60)]
    | Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,3})? ?[kMGTP]B(?!\n)$", max_length=20)]
)
"""Bytes, or as `10GB`."""
_POWERS = {"k": 1, "M": 2, "G": 3, "T": 4, "P": 5}

Scalar = str | int | float | bool
Item = Scalar | dict[str, Scalar]
"""A value, or named ones: `{item.NAME}`."""
_Value = Annotated[str, Meta(max_length=LONGEST_ITEM)] | int | float | bool
_Item = _Value | Annotated[dict[Variable, _Value], Meta(max_length=100)]


class TaskState(StrEnum):
    """How a task is. A cancelled or failed one may still have jobs that are being cancelled."""

    SUBMITTING = "submitting"
    """Its items are still coming in."""
    RUNNING = "running"
    PAUSED = "paused"
    """It makes no more jobs; those that it has made go on."""
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verb(StrEnum):
    """What can be done to a task."""

    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    """Try items again that have failed, and those that never began since it was cancelled."""
    FINISH = "finish"
    """Let no more items of lists, ranges and searches begin, and be content with what finishes."""


class UnitState(StrEnum):
    """How items are that go through a job together."""

    READY = "ready"
    """They wait for another job: the one that they had has failed."""
    OPEN = "open"
    """Their job is not final."""
    ENDED = "ended"
    """It is, and its task does not know yet."""
    FINISHED = "finished"
    FAILED = "failed"


UNITS_LEFT = frozenset({UnitState.READY, UnitState.FAILED})
"""What a retry, or another try, begins with."""
ENDED = frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED})
_NAMES = {"first": "from", "last": "to"}


class Range(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_NAMES):
    """Whole numbers, the last included."""

    first: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    last: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    step: Annotated[int, Meta(ge=1, le=2**53)] = 1

    @property
    def count(self) -> int:
        """How many they are."""
        return max(0, (self.last - self.first) // self.step + 1)


class Over(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the items of a step come from: one of these."""

    list: Annotated[tuple[_Item, ...], Meta(min_length=1, max_length=MOST_LISTED)] | None = None
    range: Range | None = None
    dataset: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    """A data set, `rucio://scope:name` or `scope:name`, in the dispatcher's catalogue: each of its
    files is an item, also those that come into it while it is open."""
    outputs: Name | Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)] | None = None
    """A step before, or several: each file that one of their finished jobs left is an item."""
    ask: Ask | None = None
    """Points that a planner says, until it says no more."""
    match: Annotated[str, Meta(min_length=1, max_length=400)] = "*"
    """Which of these files, by the names that the jobs know."""

    @property
    def did(self) -> str:
        """The data set as `scope:name`; blank: none. Raises AilurusError."""
        if self.dataset is None:
            return ""
        return str(Did.parse(self.dataset.removeprefix(f"{SCHEME}://")))

    @property
    def sources(self) -> tuple[str, ...]:
        """The steps whose files are items."""
        if self.outputs is None:
            return ()
        return (self.outputs,) if isinstance(self.outputs, str) else self.outputs


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What must be so before the first job of a step is made."""

    after: Annotated[Text, Meta(min_length=1, max_length=300)] | None = None
    """`STEP`, which has to finish; or `STEP 90%` or `STEP 50`: so many of its items."""
    staged: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.=&|\\*()<>-]+(?!\n)$", max_length=500)] = ""
    """A storage, or an expression of storages: a file is copied there before its job is made, and
    kept there until its job has ended."""
    files: Annotated[int, Meta(ge=1, le=MOST_STAGING)] = 100
    """How many files may be on their way there, or kept there for jobs, at once."""
    bytes: Size | None = None
    """How many bytes may be; one file that is larger goes alone."""

    @property
    def step(self) -> str:
        """The step that is waited for."""
        return (self.after or "").partition(" ")[0]

    @property
    def share(self) -> str:
        """How much of it; blank: that it finishes."""
        return (self.after or "").partition(" ")[2].strip()


class Failed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What failures mean to a step."""

    attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    """How many jobs are made for an item, one after the other, until one of them finishes."""
    goal: Goal = ALL
    """How many items must finish so that the step does."""
    abort: Goal = ALL
    """When so many items have failed, the task ends at once; `all`: it never does."""


class By(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many items a job takes: as many as keep within both."""

    files: Annotated[int, Meta(ge=1, le=MOST_TOGETHER)] = MOST_TOGETHER
    bytes: Size
    """Of the files that the items are; a larger one goes alone."""


class Pull(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Jobs that lease the items of a step a few at a time, and run each as a payload."""

    consumers: Annotated[int, Meta(ge=1, le=MOST_CONSUMERS)]
    """How many there are at once, as long as items wait."""
    items: Annotated[int, Meta(ge=1, le=MOST_ITEMS)] | None = None
    """How many each takes at most before another follows it; None: all that wait."""


class TaskStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Turns items into jobs."""

    name: Name
    over: Over
    job: Annotated[dict[Variable, Any], Meta(max_length=100)]
    """A job as in a job file, with `{item}` or `{items}` and `{index}` in its texts."""
    by: (
        Annotated[int, Meta(ge=1, le=MOST_TOGETHER)]
        | Annotated[str, Meta(pattern=r"^all(?!\n)$", max_length=3)]
        | By
    ) = 1
    """How many items a job takes."""
    pull: Annotated[int, Meta(ge=1, le=MOST_CONSUMERS)] | Pull | None = None
    """How many jobs lease its items, each of which is a payload then; None: each item is in a job
    from its beginning."""
    gate: Gate | None = None
    failed: Failed = Failed()

    @property
    def most(self) -> int:
        """The most items that a job takes."""
        if isinstance(self.by, By):
            return self.by.files
        return MOST_TOGETHER if isinstance(self.by, str) else self.by

    @property
    def pulled(self) -> Pull | None:
        """How its items are leased; None: they are not."""
        return Pull(consumers=self.pull) if isinstance(self.pull, int) else self.pull

    @property
    def staged(self) -> Gate | None:
        """How files are staged before there are jobs for them; None: they are not."""
        return self.gate if self.gate is not None and self.gate.staged else None


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be done; never changes."""

    task: Name
    steps: Annotated[tuple[TaskStep, ...], Meta(min_length=1, max_length=MOST_STEPS)]
    base: Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=4000)] = "/"
    """The directory against which relative paths in its jobs are read."""


def size_of(size: int | str) -> int:
    """Bytes that a `Size` means."""
    if isinstance(size, int):
        return size
    return int(float(size[:-2]) * 1000 ** _POWERS[size[-2]])


def known(step: TaskStep) -> int | None:
    """How many items a step has; None: that shows while the task runs."""
    if step.over.range is not None:
        return step.over.range.count
    return None if step.over.list is None else len(step.over.list)


def is_item(step: TaskStep, name: str) -> bool:
    """Whether a file of that name, which a job of the step before has left, is an item."""
    return fnmatchcase(name, step.over.match)
