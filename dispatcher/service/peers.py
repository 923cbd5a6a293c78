"""What the service asks of the other dispatchers on its store, and the answers where there are
none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dispatcher.memory.black_holes import Verdict
from dispatcher.memory.leases import Lease, OfPanda
from dispatcher.ports import Tx
from dispatcher.rules import submission
from dispatcher.service.notices import (
    LogArrived,
    Look,
    OfJobs,
    PandaAttempt,
    SoftKill,
    TailRequest,
)
from dispatcher.service.state import State

# How often it is written when workers were last seen.
FLUSH_S = 10.0
_of_panda = msgspec.json.Decoder(OfPanda).decode


class Peers(Protocol):
    """The other dispatchers on our store."""

    @property
    def name(self) -> str:
        """Our name among them; blank for one that is alone."""

    @property
    def leads(self) -> bool:
        """Whether we do what only one dispatcher may: end leases, inform children of ended jobs,
        archive."""

    async def join(self) -> int:
        """Begin to follow them, before memory is read from the store. How many submissions a former
        process had left unfinished that are forgotten by this."""

    def follow(self, last_event: int) -> None:
        """Memory is as of that event: from here on it follows what they do."""

    async def leave(self) -> None:
        """Let another lead at once."""

    async def beat(self) -> bool:
        """Tell them that we live and what users have spent here. Whether we lead from now on."""

    async def catch_up(self) -> None:
        """Learn when they have last heard of workers and edges."""

    def flush_s(self) -> float:
        """Seconds between two writes of what was heard here."""

    def grace_s(self) -> float:
        """Awake seconds after a failed step of time in which no lease may end: so long others may
        have been unable to say what they heard."""

    def write_heard(self, tx: Tx, attempts: Sequence[Mapping[str, Any]]) -> None:
        """Write when attempts were last heard of, where they look for it."""

    async def write_sites(self, sites: Sequence[Mapping[str, Any]]) -> None:
        """Write when the edges of sites were last heard, where they look for it."""

    async def still_held(self, late: Sequence[Lease]) -> set[int]:
        """The jobs of late leases for which a worker has spoken to another dispatcher since."""

    async def learn_site(self, site: str) -> None:
        """Know which edge provisions a site, as the store says."""

    async def send(self, notice: OfJobs) -> None:
        """Give a notice about jobs to all dispatchers, this one included. It may get lost."""

    async def send_verdict(self, verdict: Verdict) -> None:
        """Have the others count how an attempt ended on a node. It may get lost."""

    async def log_arrived(self, job_id: int) -> None:
        """Wake those who look at a job, at all dispatchers."""

    async def tail_came(self, lease: Lease, text: str) -> None:
        """A pilot has sent the end of a file that somebody asked for."""

    async def tail_of(self, job_id: int, since: float) -> str | None:
        """The end of a file that a pilot has sent to another dispatcher since then."""

    async def want_curves(self, job_ids: Sequence[int]) -> None:
        """Have whoever hears the pilots of jobs store their curves."""


class Alone:
    """No other process can be on the store."""

    name = ""
    leads = True

    def __init__(self, state: State) -> None:
        self._state = state

    async def join(self) -> int:
        return await self._state.store.write(lambda tx: submission.drop_broken(tx, self.name))

    def follow(self, last_event: int) -> None:
        pass

    async def leave(self) -> None:
        pass

    async def beat(self) -> bool:
        return False

    async def catch_up(self) -> None:
        pass

    def flush_s(self) -> float:
        return FLUSH_S

    def grace_s(self) -> float:
        return 0.0

    def write_heard(self, tx: Tx, attempts: Sequence[Mapping[str, Any]]) -> None:
        pass

    async def write_sites(self, sites: Sequence[Mapping[str, Any]]) -> None:
        pass

    async def still_held(self, late: Sequence[Lease]) -> set[int]:
        return set()

    async def learn_site(self, site: str) -> None:
        pass

    async def send(self, notice: OfJobs) -> None:
        apply(notice, self._state)

    async def send_verdict(self, verdict: Verdict) -> None:
        pass

    async def log_arrived(self, job_id: int) -> None:
        self._state.log_arrived(job_id)

    async def tail_came(self, lease: Lease, text: str) -> None:
        lease.tail, lease.tail_wanted = text, ""
        self._state.log_arrived(lease.job_id)

    async def tail_of(self, job_id: int, since: float) -> str | None:
        return None

    async def want_curves(self, job_ids: Sequence[int]) -> None:
        pass


def apply(notice: OfJobs, state: State) -> None:
    """Note on leases what a notice asks of whoever hears their workers."""
    for job_id in notice.job_ids:
        lease = state.leases.of(job_id)
        match notice:
            case LogArrived():
                state.log_arrived(job_id)
            case _ if lease is None:
                continue
            case SoftKill():
                lease.soft_kill = True
            case Look():
                lease.log_wanted = state.awake.now + notice.seconds
            case TailRequest():
                lease.tail_wanted, lease.tail = notice.text, None
            case PandaAttempt():
                lease.panda = _of_panda(notice.text)
