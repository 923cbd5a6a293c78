"""What an ended job means for those that wait for it: a slice of children a commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ailurus.protocol.errors import Code
from ailurus.protocol.states import FINAL, JobState
from dispatcher.ports import Row, Tx
from dispatcher.rules import failures

_encode = msgspec.json.Encoder().encode
SLICE = 500  # children told in one commit: a wide fan-out must not hold up every heartbeat
AT_ONCE = 8  # children told in the commit that ends their parent


def ended(tx: Tx, job_id: int, state: JobState, name: str, *, now: float) -> None:
    """Tell the children of a job that has just ended; what is left is done by `unfold`."""
    if tx.one("unfolding.add", job_id=job_id) is None:
        return  # nobody waits for it
    if _tell(tx, job_id, state, name, AT_ONCE, now) < AT_ONCE:
        tx.run("unfolding.done", job_id=job_id)
    if tx.one("unfolding.any", most=1):
        tx.tell("unfolding", at=now, job_id=job_id)


def unfold(tx: Tx, *, now: float) -> bool:
    """One more slice of what ended jobs still have to tell. Whether there may be more."""
    left = SLICE
    for job_id, state, name in tx.all("unfolding.any", most=SLICE):
        told = _tell(tx, job_id, JobState(state), name, left, now)
        if told < left:
            tx.run("unfolding.done", job_id=job_id)
        left -= told
        if left <= 0:
            return True
    return tx.one("unfolding.any", most=1) is not None


def _tell(tx: Tx, job_id: int, state: JobState, name: str, most: int, now: float) -> int:
    """Tell up to `most` children that do not know yet. How many there were."""
    children = [child for (child,) in tx.all("parent.tell", parent=job_id, most=most)]
    if children and state is JobState.FINISHED:
        _one_less(tx, children, now)
    else:
        for child in children:
            _fail(tx, child, f"depends on job {job_id} ({name}), which is {state}", now)
    return len(children)


def _one_less(tx: Tx, children: Sequence[int], now: float) -> None:
    """A parent of these has finished; those that wait for no other are ready."""
    rows = tx.all("job.parent_done", ids=_encode(children).decode())
    ready = [row for row in rows if row[1] == 0 and row[2] == JobState.PENDING]
    if not ready:
        return
    tx.run("job.activate", ids=_encode([row[0] for row in ready]).decode(), now=now)
    for child, _, old, queue, shape_id, attempt_nr, owner in ready:
        moved(
            tx,
            child,
            old,
            JobState.ACTIVATED,
            queue,
            shape_id,
            owner,
            now=now,
            attempt_nr=attempt_nr,
        )


def _fail(tx: Tx, child: int, diagnosis: str, now: float) -> None:
    row = tx.one("job.standing", job_id=child)
    if row is None or row[0] in FINAL:
        return
    if row[0] == JobState.DEFINED:
        # it may never come to be, and does not know all its children yet: it fails when it is there
        tx.run("job.doom", job_id=child, code=Code.PARENT_FAILED, diagnosis=diagnosis)
        return
    fail(tx, child, code=Code.PARENT_FAILED, diagnosis=diagnosis, now=now)


def fail(tx: Tx, job_id: int, *, code: int, diagnosis: str, now: float) -> None:
    """End a job that can never run. Its own children follow in their turn."""
    end(tx, job_id, JobState.FAILED, code=code, diagnosis=diagnosis, now=now)
    tx.run("unfolding.add", job_id=job_id)


def end(
    tx: Tx,
    job_id: int,
    state: JobState,
    *,
    code: int,
    diagnosis: str,
    now: float,
    attempt_nr: int | None = None,
    row: Row | None = None,
    **facts: Any,
) -> None:
    """Put a job into a final state; `facts` go into the event. Its children are the caller's to tell.
    `row`: its standing, from who has read it in this transaction."""
    old, current, _, _, queue, shape_id, _, owner, *_ = row or _row(tx, job_id)
    winner = current if attempt_nr is None else attempt_nr
    failed = state is JobState.FAILED
    about = {"owner": owner, "code": int(code), "diagnosis": diagnosis, "now": now}
    tx.run(
        "job.end",
        job_id=job_id,
        state=state,
        code=code,
        diagnosis=diagnosis,
        attempt_nr=winner,
        kind=failures.note(tx, **about) if failed else None,
        now=now,
    )
    # `user`: who counts what ended in a minute wants it by user, and reads no row for it
    facts |= {"attempt_nr": winner, "code": int(code), "user": owner}
    moved(tx, job_id, old, state, queue, shape_id, owner, now=now, **facts)


def moved(
    tx: Tx,
    job_id: int,
    old: str,
    new: str,
    queue: str,
    shape_id: int,
    owner: str,
    *,
    now: float,
    **facts: Any,
) -> None:
    """The counters and the event of a change of state."""
    tx.count(queue, shape_id, old, -1, owner)
    tx.count(queue, shape_id, new, +1, owner)
    tx.tell(
        "state",
        at=now,
        job_id=job_id,
        state=str(new),
        old=str(old),
        queue=queue,
        shape_id=shape_id,
        **facts,
    )


def _row(tx: Tx, job_id: int) -> Row:
    row = tx.one("job.standing", job_id=job_id)
    if row is None:
        raise LookupError(f"no job {job_id}")
    return row
