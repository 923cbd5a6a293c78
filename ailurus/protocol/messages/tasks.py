"""Messages about tasks."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from ailurus.protocol.fields import Key, Name, Whole
from ailurus.protocol.messages.base import Answer, StrictRequest
from ailurus.protocol.search import MOST_TOGETHER, Point
from ailurus.protocol.task import Task, TaskState, Verb


class SubmitTask(StrictRequest):
    """Submits a task. The caller makes `request_id`; a repeated one returns the first answer."""

    request_id: Key
    task: Task


class TaskSubmitted(Answer):
    task_id: int
    # The request had been accepted before.
    repeated: bool = False


class SteerTask(StrictRequest):
    """Does something to a task of the caller."""

    task_id: Whole
    verb: Verb


class CancelTask(StrictRequest):
    """Makes no more jobs of a task, and cancels those that it has made."""

    task_id: Whole


class AddPoints(StrictRequest):
    """Adds points to a step over `ask` of a task of the caller: those that it does not have yet, so
    the same request may be sent again."""

    task_id: Whole
    step: Name
    points: Annotated[tuple[Point, ...], Meta(max_length=MOST_TOGETHER)] = ()
    # No more points come.
    end: bool = False


class PointsAdded(Answer):
    # How many of them are new.
    added: int
    # How many the step has now.
    items: int


class Best(Answer):
    """The point of a search with the least loss."""

    nr: int
    item: Any
    loss: float


class SearchPoint(Answer):
    """A point of a search."""

    nr: int
    """Its number in its step, from 0."""
    item: Any
    state: str
    """`waiting` for a first job, `ready` for another, `open`, `ended`, `finished` or `failed`."""
    job_id: int | None = None
    """The last job that it had."""
    loss: float | None = None
    """What that has found."""
    reason: str = ""
    """Why no job could be made of it, or why there is no loss."""


class Points(Answer):
    points: tuple[SearchPoint, ...]
    # Pass as `after` for those after these.
    next: int | None = None


class StepRow(Answer):
    """How far a step is, in items."""

    name: str
    items: int
    """How many are known."""
    closed: bool
    """No more become known."""
    waiting: int
    """How many wait for a job."""
    open: int
    """How many are in jobs that are not final."""
    finished: int
    failed: int
    jobs: int
    """How many jobs' worth of items there were: another job for the same items is not counted."""
    open_jobs: int
    sentence: str
    """Where it stands, and what it waits for."""
    running: int = 0
    """Of a step whose items are leased: how many of those in jobs run, as far as their pilots have
    told."""
    best: Best | None = None
    """Of a search."""


class TaskRow(Answer):
    """A task, and how far its steps are."""

    task_id: int
    name: str
    user: str
    state: TaskState
    created: float
    changed: float
    steps: tuple[StepRow, ...]
    reason: str = ""
    """Why it failed, or why of some items no job could be made."""


class TaskPage(Answer):
    tasks: tuple[TaskRow, ...]
    # Pass as `before` for the page after this one.
    next: int | None = None


class StepStaging(Answer):
    """How the files of a step are that are staged before there are jobs for them."""

    step: str
    storage: str
    listed: int
    """Nobody was asked for them yet."""
    asked: int
    """The catalogue is being asked."""
    staging: int
    """A rule brings them."""
    staged: int
    """They are there, and have no job yet."""
    held: int
    """They are kept there for jobs."""
    most: int
    """So many may be on their way or kept there."""
    held_bytes: int


class TaskDetail(Answer):
    """All about a task."""

    row: TaskRow
    task: Task
    """What was submitted; of each list only the first item."""
    staging: tuple[StepStaging, ...] = ()


class TaskItemRow(Answer):
    """Items that go through a job together."""

    first: int
    """The number of the first of them in its step, from 0."""
    items: int
    item: str
    """The first of them, as far as a list shows it; blank: it is too large, or `items` is 0, as the job
    leases its items."""
    state: str
    tries: int
    job_id: int | None
    reason: str = ""
    """Why no job could be made of them."""


class TaskItemPage(Answer):
    """A page may have few of them, or none, and be followed by others all the same."""

    items: tuple[TaskItemRow, ...]
    # Pass as `after` for the page after this one.
    next: int | None = None
