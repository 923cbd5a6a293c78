"""What users do to jobs that wait: their priority and queue, to hold them and to release them.

A held job waits as for a parent that does not exist, so that a dispatcher of an earlier version
leaves it alone as well.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from msgspec import Struct

from ailurus.protocol.job import shape_of
from ailurus.protocol.resources import Shape
from ailurus.protocol.states import FINAL, JobState, Refusal
from dispatcher.events import Handled
from dispatcher.ports import Tx
from dispatcher.rules import attempts, records, specs, transitions, user_turns
from dispatcher.rules.group_turns import Turns
from dispatcher.rules.lanes import Lanes
from dispatcher.rules.records import ChildRecord, JobRecord

HELD = 1_000_000_000
"""Added to the parents for which a held job waits."""
WAITING = frozenset({JobState.PENDING, JobState.ACTIVATED})


class Hand(Struct, frozen=True):
    """Who does it, in which action, when; and what it takes to move a job to another line."""

    by: str
    action: int
    now: float
    turns: Turns
    shapes: MutableMapping[int, Shape]
    shares: Mapping[str, float]


def is_held(job: JobRecord) -> bool:
    """Whether its user holds a job."""
    return job.state is JobState.PENDING and job.parents_left >= HELD


def cancel(tx: Tx, job: JobRecord, hand: Hand) -> bool:
    """Cancel a job. Whether it had not ended."""
    if job.state is JobState.DEFINED:
        return False
    if not attempts.cancel(tx, job_id=job.job_id, by=hand.by, now=hand.now):
        return False
    _tell(tx, job, hand, "cancel")
    return True


def hold(tx: Tx, job: JobRecord, hand: Hand) -> bool:
    """Let a job that waits wait until it is released."""
    if job.state not in WAITING or is_held(job):
        return False
    if job.state is JobState.ACTIVATED:
        after = transitions.set_aside(tx, job, now=hand.now)
        if isinstance(after, Refusal):
            return False
    tx.run("job.wait_for", job_id=job.job_id, n=HELD)
    _tell(tx, job, hand, "hold")
    return True


def release(tx: Tx, job: JobRecord, hand: Hand) -> bool:
    """Let a held job go on waiting with all others."""
    if not is_held(job):
        return False
    left = job.parents_left - HELD
    tx.run("job.wait_for", job_id=job.job_id, n=-HELD)
    child = ChildRecord(
        job.job_id, left, job.state, job.queue, job.shape_id, job.attempt_nr, job.owner
    )
    transitions.activate(tx, [child], now=hand.now)
    _tell(tx, job, hand, "release")
    return True


def prioritize(tx: Tx, job: JobRecord, hand: Hand, priority: int) -> bool:
    """Let a job that has not ended go before or behind others."""
    old = records.value(tx.one("job.priority", job_id=job.job_id), 0)
    if job.state in FINAL or job.state is JobState.DEFINED or old == priority:
        return False
    tx.run("job.set_priority", job_id=job.job_id, priority=priority)
    _tell(tx, job, hand, "priority", old=str(old), new=str(priority))
    return True


def move(tx: Tx, job: JobRecord, hand: Hand, queue: str) -> bool:
    """Let a job wait in another queue, at the end of what its user has there."""
    if job.state not in WAITING or job.queue == queue:
        return False
    shape = shape_of(specs.specification(tx, job.job_id, job.name))
    group = hand.turns.group(tx, job.shape_id)
    lanes = Lanes(tx, job.owner, group, hand.turns, hand.shapes, hand.now)
    number = lanes.number(queue, shape, hand.turns.carried(tx, job.shape_id))
    (end,), takes = user_turns.turns([(queue, shape.cores)], hand.shares.get(job.owner, 1.0))
    begins = user_turns.begin(tx, job.owner, takes, group, hand.turns)
    tx.run(
        "job.set_queue",
        job_id=job.job_id,
        queue=queue,
        shape_id=number,
        rank=begins[queue] + end,
    )
    tx.run("sized.drop", job_id=job.job_id)
    if lanes.mixed(number):
        tx.many("sized.add", [records.sized(job.job_id, shape)])
    tx.count(job.queue, job.shape_id, job.state, -1, job.owner)
    tx.count(queue, number, job.state, +1, job.owner)
    # Whoever waits in that queue is woken by it.
    shape_id = number if job.state is JobState.ACTIVATED else None
    event = Handled(
        by=hand.by,
        verb="move",
        action=hand.action,
        queue=queue,
        shape_id=shape_id,
        old=job.queue,
        new=queue,
    )
    tx.tell(event, at=hand.now, job_id=job.job_id)
    return True


def _tell(
    tx: Tx, job: JobRecord, hand: Hand, verb: str, old: str | None = None, new: str | None = None
) -> None:
    event = Handled(by=hand.by, verb=verb, action=hand.action, old=old, new=new)
    tx.tell(event, at=hand.now, job_id=job.job_id)
