"""What the dispatcher asks of its store, and of a catalogue of data.

A change is a plain function of a transaction: `write` runs those that have gathered, commits once,
and answers all. If one fails that has written, all are run a second time, each in a savepoint. So
durability is shared, and nobody above knows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from ailurus.protocol.query import Query
from ailurus.tasks import Tasks
from dispatcher.events import Entry, Event

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
ANY_NUMBER = 1_000_000
NOTICE_BYTES = 7900
"""The longest notice between dispatchers: PostgreSQL carries 8000 bytes."""
Row = tuple[Any, ...]


class Handed(Struct, frozen=True):
    """A file on its way to a user; its pieces are read as they are sent."""

    name: str
    # Bytes; None: nobody counts them before.
    size: int | None
    pieces: AsyncGenerator[bytes]


class Asks(Struct, frozen=True):
    """What a worker asks for, as far as a store can look before the rules do."""

    worker_id: int
    request: str
    queue: str
    count: int


class Ahead(Struct, frozen=True):
    """What a change will look at, which a store may read together with what others in its commit
    will.

    It changes no answer, only how often a server is waited for and where the change is run.
    """

    jobs: Sequence[int] = ()
    # Whether it looks at the attempts of these jobs, too.
    attempts: bool = False
    ask: Asks | None = None
    # How many rows it writes besides.
    rows: int = 0
    # Whether these jobs and rows are all that it looks at and writes.
    all: bool = False

    @property
    def steps(self) -> int:
        """How long it is, in jobs and rows; a change that names no job may be of any length, unless
        it says that this is `all`."""
        jobs = len(self.jobs) + (self.ask.count if self.ask else 0)
        return jobs + self.rows if jobs or self.all else ANY_NUMBER


class Tx(Protocol):
    """A transaction. Statements are called by their name in `store/sql/`."""

    def one(self, query: str, **values: Any) -> Row | None:
        """The first row, or None."""

    def all(self, query: str, **values: Any) -> list[Row]:
        """All rows."""

    def search(self, query: str, wanted: Query, now: float, **values: Any) -> list[Row]:
        """All rows of a statement of `search.sql`, of the jobs that match `wanted` at the time
        `now`."""

    def run(self, query: str, **values: Any) -> None:
        """A statement without an answer; what is wrong with it may be raised at a later one."""

    def many(self, query: str, values: Iterable[Mapping[str, Any]]) -> None:
        """The statement once for each of `values`."""

    def count(self, queue: str, shape_id: int, state: str, by: int, owner: str = "") -> None:
        """Move the counters of jobs of that queue, shape and state, and of that owner, queue and
        state; summed up once a commit."""

    def tally(self, first: int, part: str, by: int) -> None:
        """Move the tally of the submission whose first job this is, `part` as in `states.PARTS`;
        summed up once a commit."""

    def failed(self, kind: int, example: str, at: float) -> None:
        """Move the counter of failures of a kind; summed up once a commit."""

    def spend(self, ended: Mapping[str, Any]) -> None:
        """Add what an attempt took to the sums; once a commit for all. `ended`: a row of
        `usage.add`."""

    def tell(
        self, event: Event, *, at: float, job_id: int | None = None, worker_id: int | None = None
    ) -> None:
        """Write an event, and give it to the listeners after the commit."""

    def assign(self, table: MutableMapping[K, V], key: K, value: V) -> None:
        """Set `table[key]` in memory. If the change is undone, because it fails, because it is run
        again for a neighbour's failure, or because the commit fails, so is this."""


NOTHING = Ahead()


class Store(Protocol):
    """Where jobs are kept."""

    loops: Tasks
    """Keeps the store's own threads; whoever serves from it has its loops kept here, too."""

    @property
    def alone(self) -> bool:
        """Whether no other process can be on this store."""

    async def write(self, change: Callable[[Tx], T], ahead: Ahead = NOTHING) -> T:
        """The result of `change`, after it is durable. Raises what `change` raised, or
        Unavailable."""

    async def read(self, query: Callable[[Tx], T]) -> T:
        """The result of `query` on a recent committed state."""

    def listen(self, listener: Callable[[Sequence[Entry]], None]) -> None:
        """Have `listener` called on the event loop with the events of each commit, whoever made it,
        in their order."""

    async def publish(self, notice: str) -> None:
        """Send a short text to all processes on this store, this one included. It may get lost.
        Raises ValueError for one of more than `NOTICE_BYTES`."""

    def subscribe(self, subscriber: Callable[[str], None]) -> None:
        """Have `subscriber` called on the event loop with each text that is published."""

    async def finish_schema(self) -> bool:
        """Take away what only versions before this one needed. False: not now, ask again."""

    async def close(self) -> None:
        """Finish what is in hand and let go of the store."""


class Unavailable(Exception):
    """The store cannot write now (a full disk, a lost server): nothing was changed, try again."""


class NewFile(Struct, frozen=True, kw_only=True):
    """An output in storage, as a catalogue is to know it."""

    key: int
    scope: str
    name: str
    rse: str
    """The storage where it is."""
    size: int
    """Bytes."""
    adler32: str
    guid: str
    dataset: str = ""
    """`scope:name` of the data set that it belongs to; blank: none."""
    lifetime_s: int | None = None
    """How long it is to be kept; None: for ever."""


class Fault(Struct, frozen=True, kw_only=True):
    """Why a catalogue did not do what was asked for one file or data set."""

    key: int
    reason: str
    remedy: str = ""
    transient: bool = False
    """Whether the same may be done later."""


Counted = Annotated[int, Meta(ge=0, le=1 << 49)]
"""What a catalogue says of bytes or events: a store can add up all that a task has staged."""


class KnownFile(Struct, frozen=True, kw_only=True):
    """A file that a catalogue knows."""

    name: str
    """`scope:name`."""
    size: Counted | None
    """Bytes; None: the catalogue does not say."""
    adler32: str
    guid: str = ""
    """32 hexadecimal digits; blank: it has none."""
    events: Counted | None = None
    """How many are in it; None: the catalogue does not say."""
    url: str = ""
    """Where it can be read; blank: `rucio://scope:name` finds it."""


class Contents(Struct, frozen=True, kw_only=True):
    """What an identifier names."""

    kind: str
    """`file`, `dataset` or `container`."""
    open: bool
    """Whether more may come into it."""
    files: tuple[KnownFile, ...]
    more: int = 0
    """How many more there are, beyond as many as were asked for."""

    def page(self, after: str, most: int) -> Contents:
        """The first `most` files behind `after`; they are in the order of their names."""
        begin = bisect_right(self.files, after, key=lambda file: file.name)
        files = self.files[begin : begin + most]
        return replace(self, files=files, more=len(self.files) - begin - len(files))


class ReplicationRule(Struct, frozen=True, kw_only=True):
    """Keeps what an identifier names at some storages, and has it copied there if need be."""

    rule_id: str
    where: str
    """An expression of storages."""
    state: str
    """As the catalogue names it: Rucio's OK, REPLICATING, STUCK, SUSPENDED, WAITING_APPROVAL."""
    done: int
    """Files that are where they shall be."""
    moving: int
    stuck: int
    expires: float | None
    """Seconds since 1970; None: never."""
    problem: str = ""
    """Why files are stuck."""


class CatalogueUnavailable(Exception):
    """The catalogue cannot be asked now: nothing is known of what was asked, ask again."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class NotDone(Exception):
    """The catalogue refused one request."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class Catalogue(Protocol):
    """A catalogue of data, in a process of its own: it may block and crash.

    Whatever it is told may have been told before: what is there as described is no fault. Methods
    for many files tell of those that they did not do all for, by their keys. All raise
    CatalogueUnavailable when the catalogue itself cannot be asked.
    """

    def register(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        """Let the catalogue know the files, and where they are."""

    def attach(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        """Put registered files into their data sets, which are made or opened if need be."""

    def keep(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        """Make rules that keep the files, or their data sets, where they are."""

    def close(self, datasets: Sequence[str]) -> Sequence[Fault]:
        """Let nothing more come into data sets; keys are their places. One that does not exist is
        no fault."""

    def resolve(self, did: str, most: int) -> Contents | None:
        """What `scope:name` names, with `most` of its files; None: nothing. Raises NotDone."""

    def listing(self, did: str, after: str, most: int) -> Contents | None:
        """The first `most` files of `scope:name` in the order of their names, of those behind the
        name `after`; None: there is no such identifier. Raises NotDone."""

    def stage(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        """Have each of these files (`scope:name`) kept at a storage, and copied there if need be,
        until `let_go`. Keys are their places."""

    def staged(self, files: Sequence[str], where: str) -> Mapping[str, str]:
        """Those of these files that can be read there, each with its URL; a blank one:
        `rucio://scope:name` finds it. Raises NotDone."""

    def let_go(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        """Keep files no longer there for `stage`; whatever else keeps them does so on."""

    def replicas(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The storages from which each of these files (`scope:name`) can be read. Raises
        NotDone."""

    def add_rule(self, did: str, where: str, lifetime_s: int | None) -> str:
        """Have what `scope:name` names kept at storages for so long (None: for ever), and copied
        there if need be; the rule's id, the same if it is there already. Raises NotDone."""

    def rules_on(self, did: str) -> Sequence[ReplicationRule]:
        """How far each rule on `scope:name` is. Raises NotDone."""
