"""Judges one worker by its two sources of evidence: the batch system's listing, and its pilot's
registration and heartbeats. Pure.

- A pilot that sends heartbeats lives, whatever a listing says.
- A worker ends by positive evidence: the batch system or the pilot says so. Absence is evidence,
  not a verdict: only after two successful listings without it, `grace_s` apart and without a
  heartbeat, it is lost; and if it shows up again, it is back. A search of the history that failed
  begins that time anew: accounts that were down lag behind when they are back. But for ever is no
  answer: one that no listing has shown for `give_up_s` is let go, whatever the history does.
- A failed listing means nothing. A state that the plugin does not know changes nothing.
- A worker that the batch system runs and that does not register in time has never registered, nor
  has one that ends before it does, whatever its exit code. Where the server does not tell who has
  registered (PanDA), one that runs counts as registered.
"""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.messages import WorkerRow
from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.ports import RENAMED, Sighting

_ACCEPTED = Outcome.ACCEPTED
UNKNOWN = "the batch system says something that we do not know"
BATCH_KNOWS_BEST = frozenset(
    {Ending.WALLTIME, Ending.PREEMPTED, Ending.NODE_FAIL, Ending.OOM, Ending.CANCELLED}
)
"""Endings of which the batch system knows more than the pilot."""


class Worker(Struct, frozen=True, kw_only=True, gc=False):
    """A worker as the edge's book has it. (intent, index) is its name everywhere. Times are Unix
    times."""

    intent: str
    index: int
    slot: str
    queue: str
    planned: float
    deadline: float = 0.0
    """After this it cannot register any more; 0: it always can."""
    phase: Phase = Phase.PLANNED
    outcome: Outcome | None = None
    ending: Ending | None = None
    batch_id: str = ""
    worker_id: int = 0
    """The server's name for it; 0: it has not registered."""
    started: float | None = None
    """First seen running."""
    registered: float | None = None
    ended: float | None = None
    absent: float | None = None
    """Since when successful searches have not found it."""
    missing: float | None = None
    """Since when no listing has shown it and no heartbeat has come."""
    diagnosis: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return (self.intent, self.index)

    @property
    def waits(self) -> bool:
        """Whether it is asked for and has not registered: it counts as queued."""
        return self.phase is not Phase.ENDED and self.registered is None


class Evidence(Struct, frozen=True, kw_only=True, gc=False):
    """All that one cycle knows about a worker."""

    now: float
    listed: bool
    """False: the listing failed, or the search for this worker did."""
    search_failed: bool = False
    sighting: Sighting | None = None
    answers_since: float | None = 0.0
    """Since when the dispatcher answers; None: it does not."""
    row: WorkerRow | None = None
    pilots_register: bool = True
    """False: the server does not tell who has registered, so a worker that runs counts as
    registered."""

    @property
    def dispatcher_answers(self) -> bool:
        return self.answers_since is not None


class Times(Struct, frozen=True, kw_only=True):
    """How long a site waits before it draws conclusions from silence, in seconds."""

    grace_s: float
    start_grace_s: float
    give_up_s: float = math.inf


def judge(worker: Worker, seen: Evidence, times: Times) -> Worker:
    """The worker after this evidence; the same object if nothing changed."""
    after = _by_batch_system(_by_pilot(worker, seen), seen, times)
    return worker if after is worker or after == worker else after


def is_alive(row: WorkerRow | None) -> bool:
    """Whether the dispatcher counts the pilot among the living."""
    return row is not None and row.phase is not Phase.ENDED


def _by_pilot(worker: Worker, seen: Evidence) -> Worker:
    """The worker after its pilot's registration and heartbeats."""
    row = seen.row
    if row is None:
        return worker
    if worker.registered is None or not worker.worker_id:
        # What registers has been submitted.
        worker = replace(
            worker,
            registered=row.registered,
            started=worker.started or row.registered,
            worker_id=row.worker_id,
            outcome=Outcome.ACCEPTED,
        )
    if not is_alive(row):
        return worker
    phase = Phase.DRAINING if row.phase is Phase.DRAINING else Phase.ACTIVE
    # True of nearly all workers in nearly every cycle.
    if worker.phase is phase and worker.missing is None:
        return worker
    return replace(worker, phase=phase, ending=None, ended=None, absent=None, missing=None)


def _by_batch_system(worker: Worker, seen: Evidence, times: Times) -> Worker:
    sighting = seen.sighting
    if sighting is None and is_alive(seen.row):
        return worker
    if sighting is None and seen.search_failed:
        return _not_searchable(worker, seen, times)
    if sighting is None:
        return _absent(worker, seen, times) if seen.listed else worker
    if (worker.missing, worker.outcome, worker.batch_id) != (None, _ACCEPTED, sighting.batch_id):
        batch_id = str(sighting.batch_id)
        worker = replace(worker, absent=None, missing=None, outcome=_ACCEPTED, batch_id=batch_id)
    if sighting.phase is not None and worker.diagnosis.startswith(UNKNOWN):
        worker = replace(worker, diagnosis="")
    if sighting.phase is Phase.ENDED:
        # The dispatcher may count a pilot as living after its batch job has ended, until it
        # notices.
        return _ended(worker, seen, sighting.ending or Ending.FAILED, sighting.detail)
    if is_alive(seen.row):
        return worker
    if sighting.detail.startswith(RENAMED):
        worker = replace(worker, diagnosis=sighting.detail)
    if sighting.phase is None:
        return replace(worker, diagnosis=f"{UNKNOWN}: {sighting.detail}")
    if sighting.phase in (Phase.QUEUED, Phase.HELD):
        return replace(
            worker, phase=sighting.phase, ending=None, ended=None, diagnosis=sighting.detail
        )
    return _runs_without_pilot(worker, seen, times)


def _runs_without_pilot(worker: Worker, seen: Evidence, times: Times) -> Worker:
    """The batch system runs it and no living pilot is known."""
    started = worker.started or seen.now
    if worker.registered is not None:
        # Its pilot has left and the job is about to end, or it is silent: nothing shows that it is
        # gone.
        gone = seen.row is not None and seen.row.ending not in (None, Ending.LOST)
        phase = Phase.DRAINING if gone else Phase.ACTIVE
        return replace(worker, phase=phase, started=started, ending=None, ended=None)
    if worker.ending is Ending.NEVER_REGISTERED:
        # Judged before; it is being cancelled.
        return worker
    if not seen.pilots_register:
        return replace(
            worker, phase=Phase.ACTIVE, started=started, registered=started, ending=None, ended=None
        )
    worker = replace(worker, phase=Phase.STARTING, started=started, ending=None, ended=None)
    # Nobody can register while the dispatcher is away.
    possible = max(started, seen.now if seen.answers_since is None else seen.answers_since)
    if seen.now - possible >= times.start_grace_s:
        return _ended(
            worker, seen, Ending.NEVER_REGISTERED, "runs, but its pilot has not registered"
        )
    return worker


def _not_searchable(worker: Worker, seen: Evidence, times: Times) -> Worker:
    """No listing shows it, and the history could not be searched."""
    if worker.missing is None:
        return replace(worker, missing=seen.now)
    if seen.dispatcher_answers and seen.now - worker.missing >= times.give_up_s:
        hours = times.give_up_s / 3600
        reason = f"no listing has shown it for {hours:g} h, and the history does not answer"
        return _ended(worker, seen, Ending.LOST, reason)
    return worker if worker.absent is None else replace(worker, absent=seen.now)


def _absent(worker: Worker, seen: Evidence, times: Times) -> Worker:
    row = seen.row
    if worker.phase is Phase.ENDED:
        return worker
    if row is not None and row.ending not in (None, Ending.LOST):
        return _ended(worker, seen, row.ending or Ending.DONE, row.diagnosis)
    if worker.absent is None:
        return replace(worker, absent=seen.now, missing=worker.missing or seen.now)
    if seen.now - worker.absent < times.grace_s or not seen.dispatcher_answers:
        return worker
    if worker.registered is None and worker.outcome is not Outcome.ACCEPTED:
        reason = "the batch system never had it"
        if worker.diagnosis:
            reason += f"; it had answered: {worker.diagnosis}"
        worker = replace(worker, outcome=Outcome.REJECTED)
        return _ended(worker, seen, Ending.CANCELLED, reason)
    had = f"the batch system took it as {worker.batch_id}, then it was " if worker.batch_id else ""
    return _ended(worker, seen, Ending.LOST, f"{had}neither listed nor heard of")


def _ended(worker: Worker, seen: Evidence, ending: Ending, detail: str) -> Worker:
    """The worker ended, with the best known reason: the batch system's where it knows more, else
    the pilot's."""
    row = seen.row
    if row is not None and row.ending not in (None, Ending.LOST) and ending not in BATCH_KNOWS_BEST:
        ending, detail = row.ending or ending, row.diagnosis or detail
    elif worker.registered is None and (
        ending is Ending.FAILED or (ending is Ending.DONE and seen.pilots_register)
    ):
        if not seen.dispatcher_answers:
            # Whether it had registered is not known before the dispatcher answers.
            return replace(worker, started=worker.started or seen.now)
        ending = Ending.NEVER_REGISTERED
    return replace(
        worker,
        phase=Phase.ENDED,
        ending=ending,
        ended=worker.ended or seen.now,
        started=worker.started or seen.now,
        absent=None,
        missing=None,
        diagnosis=detail or worker.diagnosis,
    )
