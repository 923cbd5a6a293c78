"""The port of the queue: what the edge calls of our dispatcher, or of a PanDA server.

Every call but the pure ones raises WireError: Refused if the server said no, Unreachable or
Nonsense if it gave no answer that means anything.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ailurus.protocol import messages as m

Key = tuple[str, int]
"""The name of a worker: its intent, and its index in it."""


class Demand(NamedTuple):
    """What waits and which pilots live; and the same in sentences, for `why`."""

    answer: m.Demand
    sentences: tuple[str, ...] = ()


class Probe(NamedTuple):
    """What `doctor` finds out: a sentence, and by how many seconds the server's clock differs from
    ours."""

    message: str
    skew_s: float = 0.0


class Upstream(Protocol):
    """Who holds the queue of a site."""

    pilots_register: bool
    """Whether the server tells which pilots have registered. If not, a worker that runs counts as
    registered."""

    def hello(self, ask: m.Hello) -> m.Welcome:
        """Take or renew the lease of the site."""
        ...

    def demand(self, ask: m.DemandRequest) -> Demand:
        """What waits, and the pilots that live; publishes the site's last decision."""
        ...

    def plan(self, ask: m.NewIntent) -> tuple[str, ...]:
        """Announce workers before they are submitted; returns a credential for each."""
        ...

    def worker_id(self, credential: str) -> int:
        """The server's name for a worker with that credential; 0: it gets one when it registers.
        Pure."""
        ...

    def adopted_worker_id(self) -> int:
        """A name for a worker that was found without a credential; 0: it gets one when it
        registers."""
        ...

    def report(self, ask: m.WorkerObservations) -> None:
        """Tell what became of workers. Repeating a report does no harm."""
        ...

    def drain(self, ask: m.DrainWorkers) -> None:
        """Have pilots finish what they have, take nothing more, and leave."""
        ...

    def condemned(self) -> frozenset[Key]:
        """Workers that the server wants to be killed. Pure."""
        ...

    def close(self) -> None:
        """Close what the edge's side of it keeps on disk. Raises nothing."""
        ...
