"""Messages about the items of a job: their upload, their pilot's news of them, and how users see
them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw

from ailurus.protocol.fields import Count, Key, Label, LongText, Moment, Whole
from ailurus.protocol.item import TOGETHER, ItemOutcome, ItemSpec, ItemState
from ailurus.protocol.messages.base import Answer, LenientRequest, StrictRequest
from ailurus.protocol.messages.files import FileRecord
from ailurus.protocol.messages.usage import Usage

MOST_NEWS = 5000
"""Items of which one request tells."""
ItemTail = Annotated[str, Meta(max_length=2000)]


class AddItems(StrictRequest):
    """A slice of a list of items. Slices come in their order, each begins where the one before
    ended; one that comes again changes nothing. The list is the caller's, under a name that the
    caller makes, and goes into a job by `JobSpec.payloads`; one that goes into none is forgotten
    after a day."""

    list: Key
    first: Whole
    items: Annotated[tuple[ItemSpec, ...], Meta(min_length=1, max_length=TOGETHER)]


class ItemsAdded(Answer):
    # How many the list has now: where the next slice begins.
    count: int


class ItemKey(LenientRequest):
    """One attempt of an item."""

    index: Whole
    attempt: Whole


class ItemBegun(LenientRequest):
    """An attempt of an item has begun to run, and runs still."""

    index: Whole
    attempt: Whole
    at: Moment
    host: Label = ""
    # Which share of the node, as the pilot names it.
    slot: Label = ""


class ItemEnd(LenientRequest):
    """An attempt of an item has ended."""

    index: Whole
    attempt: Whole
    outcome: ItemOutcome
    exit_code: Annotated[int, Meta(ge=-1000, le=1000)] | None = None
    # PanDA pilotErrorCode.
    code: Count = 0
    diagnosis: LongText = ""
    transient: bool = False
    started: Moment = 0.0
    ended: Moment = 0.0
    host: Label = ""
    slot: Label = ""
    usage: Usage | None = None
    stdout_tail: ItemTail = ""
    stderr_tail: ItemTail = ""


class ItemsRequest(LenientRequest):
    """A pilot's news of the items of a job that it has leased, and its request for `count` more.
    It renews the job's lease.

    Repeated with the same `request_id` it gives the same leases: a pilot has one such request of a
    job under way at a time. What it tells may be told again.
    """

    request_id: Key
    job_id: Whole
    attempt_nr: Whole
    count: Annotated[int, Meta(ge=0, le=TOGETHER)] = 0
    begun: Annotated[tuple[ItemBegun, ...], Meta(max_length=MOST_NEWS)] = ()
    ended: Annotated[tuple[ItemEnd, ...], Meta(max_length=MOST_NEWS)] = ()


class ItemLease(Answer):
    """An attempt of an item, leased under the lease of its job."""

    index: int
    attempt: int
    spec: ItemSpec


class ItemsAnswer(Answer):
    items: tuple[ItemLease, ...] = ()
    # How many more could be leased now.
    waiting: int = 0
    # Attempts that count no more: their payloads are to be killed, and nothing is told of them.
    stop: tuple[ItemKey, ...] = ()
    # Every item has ended: it is time for the job's report.
    settled: bool = False
    giver: str = ""


class RawItemLease(Answer):
    """`ItemLease` as the dispatcher encodes it: the specification is the bytes that were stored."""

    index: int
    attempt: int
    spec: Raw


class RawItemsAnswer(Answer):
    items: tuple[RawItemLease, ...] = ()
    waiting: int = 0
    stop: tuple[ItemKey, ...] = ()
    settled: bool = False
    giver: str = ""


class ItemCounts(Answer):
    """The items of a job in numbers."""

    total: int
    waiting: int = 0
    leased: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    # How many must finish.
    needed: int = 0
    # The job that goes on with them: this one was tried again.
    moved_to: int | None = None


class ItemRow(Answer):
    """An item in a list."""

    index: int
    name: str
    state: ItemState
    attempt: int = 0
    exit_code: int | None = None
    code: int = 0
    diagnosis: str = ""
    host: str = ""
    slot: str = ""
    started: float | None = None
    ended: float | None = None


class ItemPage(Answer):
    items: tuple[ItemRow, ...]
    # Pass as `after` for the page after this one.
    next: int | None = None


class ItemDetail(Answer):
    """All about one item: its last attempt."""

    job_id: int
    row: ItemRow
    spec: ItemSpec
    failures: int = 0
    lost: int = 0
    usage: Usage | None = None
    stdout_tail: str = ""
    stderr_tail: str = ""
    # What it left in storage: told when its job has finished.
    files: tuple[FileRecord, ...] = ()
    # Why it is where it is, in one sentence, and what would help.
    why: str = ""
    remedy: str = ""
