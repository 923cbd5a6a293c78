"""Jobs of tasks that a dispatcher has ended which knew of no tasks."""

from __future__ import annotations

from dispatcher.ports import Tx

JOBS = 200
"""That are looked at in one commit."""


def misses(tx: Tx, task_id: int) -> bool:
    """Whether there is something to catch up with."""
    return bool(tx.all("unit.missed", task_id=task_id, most=1))


def catch_up(tx: Tx, task_id: int) -> bool:
    """Note which jobs of a task a dispatcher has ended that knew of no tasks. Whether there may be
    more."""
    missed = tx.all("unit.missed", task_id=task_id, most=JOBS)
    tx.many("unit.end", ({"job_id": job_id, "state": state} for job_id, state in missed))
    return len(missed) == JOBS
