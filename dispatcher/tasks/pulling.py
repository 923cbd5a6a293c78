"""Steps whose items jobs lease: what `advance` does for them.

Their items are those of a pool (`dispatcher.rules.item_pools`), their units are the jobs that
lease, and have no items. So a job that ends early costs nothing: what it had waits again, for the
others or for a job that is made in its place.
"""

from __future__ import annotations

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemState
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.states import JobState
from ailurus.protocol.task import TaskStep
from ailurus.protocol.task_jobs import payload_of, sample
from dispatcher.ports import Tx
from dispatcher.rules import attempts, item_lists, item_pools, item_records
from dispatcher.rules.records import value
from dispatcher.tasks import records
from dispatcher.tasks.records import Source, StepRecord, TaskRecord

ITEMS = 250
"""Items that come into a pool in one commit."""
IDLE = 200
"""Jobs that are let go in one commit."""
BARREN = 3
"""A step is stuck once so many jobs in a row have failed, and twice as many as there are at once,
without an item that finished."""


def feed(tx: Tx, task: TaskRecord, nr: int, count: StepRecord, *, now: float) -> StepRecord | None:
    """Let items of a step be leased that have become known. How the step is then; None: there were
    none. Raises AilurusError and Rejected for an item that can be no payload."""
    more = min(ITEMS, count.items - count.fresh)
    if more <= 0:
        return None
    spec = task.task
    step = spec.steps[nr]
    source = Source(tx, task.task_id, nr, step.over.range)
    items = source.items(count.fresh, more)
    payloads = tuple(
        payload_of(spec, nr, index, item) for index, item in enumerate(items, count.fresh)
    )
    pool_id = item_pools.pool_id(task.task_id, nr)
    if item_records.find_pool(tx, pool_id) is None:
        job, pull, tries = sample(spec, nr), step.pulled, step.failed.attempts
        item_pools.begin(
            tx,
            task.task_id,
            nr,
            outputs=len(payloads[0].outputs),
            cores=job.cores * job.nodes,
            most=None if pull is None else pull.items,
            tries=tries if tries > 1 else None,
            now=now,
        )
    part = item_lists.prepare(m.AddItems(list="0", first=count.fresh, items=payloads))
    item_pools.feed(tx, task.task_id, nr, part, now=now)
    return replace(count, fresh=count.fresh + more, ready=count.ready + more)


def payloads_of(task_id: int, count: StepRecord) -> Payloads:
    """What a job of a step says of the items that it leases."""
    name = item_pools.list_name(task_id, count.nr)
    return Payloads(list=name, count=max(1, count.fresh), shared=True)


def wanted(step: TaskStep, count: StepRecord) -> int:
    """How many more jobs are to lease."""
    pull = step.pulled
    return 0 if pull is None else min(pull.consumers - count.open_jobs, count.ready)


def told(count: StepRecord, outcome: str) -> StepRecord:
    """A step one of whose jobs has ended so. One that failed counts, unless items have finished
    since."""
    if outcome == JobState.FINISHED or count.finished > count.before:
        return replace(count, barren=0, before=count.finished)
    return replace(count, barren=count.barren + (outcome == JobState.FAILED))


def stuck(step: TaskStep, count: StepRecord) -> bool:
    """Whether its jobs only fail."""
    pull = step.pulled
    return pull is not None and count.barren >= max(BARREN, 2 * pull.consumers)


def sweep(tx: Tx, task_id: int, nr: int) -> bool:
    """Let items wait again whose attempts are over. Whether there were any."""
    pool = item_records.find_pool(tx, item_pools.pool_id(task_id, nr))
    if pool is None:
        return False
    held = item_records.pools(tx, pool.cluster_id, pool.cluster_id)
    item_records.put(tx, item_pools.sweep(tx, pool))
    return item_records.pools(tx, pool.cluster_id, pool.cluster_id) != held


def let_go(tx: Tx, task_id: int, count: StepRecord, *, now: float) -> tuple[int, ...]:
    """Cancel jobs that have not begun, once no item is left for them. Returns their ids."""
    if count.open or count.ready or not count.open_jobs:
        return ()
    rows = tx.all("unit.idle", task_id=task_id, step=count.nr, most=IDLE)
    ids = tuple(job_id for (job_id,) in rows)
    for job_id in ids:
        attempts.cancel(tx, job_id=job_id, by=f"task {task_id}", now=now)
    return ids


def rest(tx: Tx, task_id: int, *, rests: bool) -> None:
    """Let no item of a task be leased for now, or have that go on."""
    tx.run("pool.rest", **item_pools.pools_of(task_id), rests=int(rests))


def again(tx: Tx, task_id: int) -> None:
    """Have items of a task tried again that failed."""
    tx.run("pool.again", **item_pools.pools_of(task_id))
    for count in records.steps(tx, task_id):
        if count.barren:
            records.put_step(tx, task_id, replace(count, barren=0))


def cut(tx: Tx, task_id: int, count: StepRecord) -> None:
    """Let no item of a step begin that never was leased."""
    tx.run("pool.cut", cluster_id=item_pools.pool_id(task_id, count.nr))
    records.put_step(tx, task_id, replace(count, items=count.begun))


def running(tx: Tx, task_id: int, nr: int) -> int:
    """How many leased items of a step run, as far as their pilots have told."""
    place = {"cluster_id": item_pools.pool_id(task_id, nr), "in_state": ItemState.RUNNING}
    return value(tx.one("item.count_all", **place), 0)
