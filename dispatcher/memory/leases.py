"""Who holds which attempt, and until when. In memory: hearing of a worker is no change to be
stored.

Time here is *awake* time: it stands still while the dispatcher is stopped, swapped out or down, so
that no lease runs out when nobody could renew it. At its start every lease has its full length.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.messages import Sample, Staging, Usage
from ailurus.protocol.states import JobState

# Samples kept of a running attempt; then every other one is dropped.
CURVE = 240


class AwakeClock:
    """Seconds that this process was awake: a jump between two ticks counts as one tick."""

    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self.now = 0.0
        self._last: float | None = None

    def tick(self, monotonic: float) -> float:
        """Advance to a reading of the monotonic clock; the answer is the awake time."""
        if self._last is not None:
            self.now += min(monotonic - self._last, 2 * self.tick_s)
        self._last = monotonic
        return self.now


OF_PANDA = "attempt"
"""The kind of record by which the store keeps an `OfPanda`; its name is `JOB.ATTEMPT`."""


class OfPanda(Struct, frozen=True):
    """What is known of an attempt in a PanDA client's hands; kept, for its pilot says it once."""

    # The id of its batch job.
    batch_id: str = ""
    # It is to send the end of its output with each heartbeat.
    debug: bool = False


class Lease(Struct):
    """An attempt in a worker's hands."""

    job_id: int
    attempt_nr: int
    worker_id: int
    state: JobState
    # Awake time at which it runs out.
    until: float
    usage: Usage | None = None
    staging: Staging | None = None
    curve: list[Sample] = []
    # Awake time until which somebody looks at the live log.
    log_wanted: float = 0.0
    # When somebody last spoke for it, seconds since 1970.
    heard: float = 0.0
    soft_kill: bool = False
    tail_wanted: str = ""
    tail: str | None = None
    owner: str = ""
    # When it was leased, seconds since 1970; 0: before this dispatcher started.
    begun: float = 0.0
    # Nothing else is given to its worker.
    alone: bool = False
    panda: OfPanda = OfPanda()

    def sample(self, at: float, usage: Usage) -> None:
        """Keep a point of the curve; a long job's curve is thinned, not cut. What it used on each
        of its nodes is no part of that."""
        self.usage = usage
        if len(self.curve) >= CURVE:
            self.curve = self.curve[::2]
        self.curve.append(Sample(at=at, usage=replace(usage, nodes=()) if usage.nodes else usage))


class Leases:
    """All leases, by job and by worker. One attempt of a job is current at a time."""

    def __init__(self) -> None:
        self._by_job: dict[int, Lease] = {}
        self._by_worker: defaultdict[int, dict[int, Lease]] = defaultdict(dict)
        # Jobs beside which nothing else runs: nearly always none.
        self._alone: set[int] = set()
        self._renewed: dict[int, Lease] = {}
        # Awake time until which no lease can run out.
        self._none_before = math.inf

    def __len__(self) -> int:
        return len(self._by_job)

    def add(self, lease: Lease) -> None:
        self.drop(lease.job_id)
        self._by_job[lease.job_id] = lease
        self._by_worker[lease.worker_id][lease.job_id] = lease
        if lease.alone:
            self._alone.add(lease.job_id)
        self.hold(lease, lease.until)

    def drop(self, job_id: int) -> Lease | None:
        """Forget a job's lease: whoever lists it at the next heartbeat is told to stop."""
        lease = self._by_job.pop(job_id, None)
        if lease is not None:
            self._alone.discard(job_id)
            held = self._by_worker[lease.worker_id]
            held.pop(job_id, None)
            if not held:
                del self._by_worker[lease.worker_id]
        return lease

    def drop_attempt(self, job_id: int, attempt_nr: int) -> None:
        """Forget the lease of an attempt that has ended, unless a newer one has begun by now."""
        lease = self.of(job_id)
        if lease is not None and lease.attempt_nr == attempt_nr:
            self.drop(job_id)

    def of(self, job_id: int) -> Lease | None:
        return self._by_job.get(job_id)

    def held(self, worker_id: int, job_id: int, attempt_nr: int) -> Lease | None:
        """The lease, if exactly this worker holds exactly this attempt."""
        lease = self._by_job.get(job_id)
        if lease is None or lease.worker_id != worker_id or lease.attempt_nr != attempt_nr:
            return None
        return lease

    def of_worker(self, worker_id: int) -> list[Lease]:
        return list(self._by_worker.get(worker_id, {}).values())

    def busy(self, worker_id: int) -> bool:
        """Whether the worker holds anything."""
        return worker_id in self._by_worker

    def alone(self, worker_id: int) -> bool:
        """Whether it holds something beside which nothing else runs."""
        held = self._by_worker.get(worker_id, {})
        return bool(self._alone) and not self._alone.isdisjoint(held)

    def renew(self, lease: Lease, until: float, at: float) -> None:
        """Somebody who may has spoken for it: at `at`, in seconds since 1970."""
        self.hold(lease, until)
        lease.heard = at
        self._renewed[lease.job_id] = lease

    def hold(self, lease: Lease, until: float) -> None:
        """It holds until then, whoever has spoken."""
        lease.until = until
        self._none_before = min(self._none_before, until)

    def written(self, lease: Lease) -> None:
        """That it was renewed is in the store already."""
        self._renewed.pop(lease.job_id, None)

    def renewed(self) -> list[Lease]:
        """Those that were renewed since this was asked last."""
        renewed, self._renewed = self._renewed, {}
        return list(renewed.values())

    def unwritten(self, leases: Iterable[Lease]) -> None:
        """What `renewed` gave could not be written: it gives them again."""
        for lease in leases:
            self._renewed.setdefault(lease.job_id, lease)

    def all(self) -> Iterable[Lease]:
        return self._by_job.values()

    def expired(self, now: float) -> list[Lease]:
        """Those that have run out. They are all looked at only when one may have."""
        if now <= self._none_before:
            return []
        self._none_before = min((lease.until for lease in self._by_job.values()), default=math.inf)
        return [lease for lease in self._by_job.values() if lease.until < now]
