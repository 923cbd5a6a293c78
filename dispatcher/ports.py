"""What the dispatcher asks of its store.

A change is a plain function of a transaction: `write` runs those that have gathered, each in a
savepoint, commits once, and answers all. So durability is shared, and nobody above knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ailurus.protocol.messages import Event

T = TypeVar("T")
Row = tuple[Any, ...]


class Tx(Protocol):
    """A transaction. Statements are called by their name in `queries.sql`."""

    def one(self, query: str, **values: Any) -> Row | None:
        """The first row, or None."""

    def all(self, query: str, **values: Any) -> list[Row]:
        """All rows."""

    def run(self, query: str, **values: Any) -> int:
        """How many rows the statement touched."""

    def many(self, query: str, values: Iterable[Mapping[str, Any]]) -> None:
        """The statement once for each of `values`."""

    def count(self, queue: str, shape_id: int, state: str, by: int) -> None:
        """Move the counter of jobs of that queue, shape and state; summed up once a commit."""

    def tell(
        self,
        kind: str,
        *,
        at: float,
        job_id: int | None = None,
        worker_id: int | None = None,
        **data: Any,
    ) -> None:
        """Write an event, and give it to the listeners after the commit."""


class Store(Protocol):
    """Where jobs are kept."""

    async def write(self, change: Callable[[Tx], T]) -> T:
        """The result of `change`, after it is durable. Raises what `change` raised, or Unavailable."""

    async def read(self, query: Callable[[Tx], T]) -> T:
        """The result of `query` on a recent committed state."""

    def listen(self, listener: Callable[[Sequence[Event]], None]) -> None:
        """Have `listener` called on the event loop with the events of each commit."""

    async def close(self) -> None:
        """Finish what is in hand and let go of the store."""


class Unavailable(Exception):
    """The store cannot write now (a full disk, a lost server): nothing was changed, try again."""
