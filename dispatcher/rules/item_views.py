"""The items of a job as users see them: in numbers, in pages, one by one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import msgspec
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemSpec, ItemState
from ailurus.protocol.states import FINAL
from dispatcher.ports import Tx
from dispatcher.rules import item_records, items, records, views
from dispatcher.rules.item_records import ClusterRecord, ItemRecord, Redo
from dispatcher.rules.records import JobRecord

S = ItemState
_spec = msgspec.json.Decoder(ItemSpec).decode
_usage = msgspec.json.Decoder(m.Usage).decode
_counts = msgspec.json.Decoder(m.ItemCounts).decode


def counts(tx: Tx, job: JobRecord, cluster: ClusterRecord) -> m.ItemCounts:
    """The items of a job in numbers; of one that was tried again, as they were then."""
    if cluster.job_id != job.job_id:
        past: str | None = records.value(tx.one("cluster.past", job_id=job.job_id), None)
        if past is not None:
            return replace(_counts(past.encode()), moved_to=cluster.job_id)
    if cluster.pool:
        return _counts_of_pool(tx, cluster)
    mark = items.current(cluster, job)
    held = cluster.held if mark == cluster.mark else 0
    running = 0
    if held:
        place = {"cluster_id": cluster.cluster_id, "mark": mark}
        running = records.value(tx.one("item.count_in", in_state=S.RUNNING, **place), 0)
    left = cluster.items - cluster.ended - held
    over = job.state in FINAL
    return m.ItemCounts(
        total=cluster.items,
        waiting=0 if over else left,
        leased=held - running,
        running=running,
        finished=cluster.finished,
        failed=cluster.failed,
        cancelled=left if over else 0,
        needed=cluster.needed,
    )


def _counts_of_pool(tx: Tx, cluster: ClusterRecord) -> m.ItemCounts:
    """The items of a step, whichever of its jobs is asked about."""
    (pool,) = item_records.pools(tx, cluster.cluster_id, cluster.cluster_id)
    held = pool.held
    in_state = {"cluster_id": cluster.cluster_id, "in_state": S.RUNNING}
    running = min(held, records.value(tx.one("item.count_all", **in_state), 0))
    return m.ItemCounts(
        total=cluster.items,
        waiting=max(0, cluster.items - cluster.ended - held),
        leased=held - running,
        running=running,
        finished=cluster.finished,
        failed=cluster.failed,
        needed=cluster.items,
    )


def find_counts(tx: Tx, job_id: int) -> m.ItemCounts | None:
    """The items of a job in numbers; None: it has none."""
    job, cluster = records.find_job(tx, job_id), item_records.find_cluster(tx, job_id)
    return None if job is None or cluster is None else counts(tx, job, cluster)


def page(
    tx: Tx, job: JobRecord, cluster: ClusterRecord, state: ItemState | None, after: int, most: int
) -> m.ItemPage:
    """Items in their order, after one; in one `state` if it is given."""
    found = list(islice(_merged(tx, job, cluster, state, after, most), most))
    # Those without a row have their name in the list.
    bare = [item.index for item in found if not item.attempt]
    specs = items.specs(tx, cluster.list_id, bare) if bare else {}
    made = []
    for item in found:
        spec = specs.get(item.index)
        if spec is None and not item.attempt:
            # The names of the others are too far away.
            break
        made.append(row(item, item.name if spec is None else items.name_of(spec)))
    more = len(made) == most or len(made) < len(found)
    return m.ItemPage(items=tuple(made), next=made[-1].index if made and more else None)


def _merged(
    tx: Tx, job: JobRecord, cluster: ClusterRecord, state: ItemState | None, after: int, most: int
) -> Iterator[ItemRecord]:
    """Items as they stand, from as many index ranges as rows of that standing may lie in."""
    cluster_id, over = cluster.cluster_id, job.state in FINAL and not cluster.pool
    if state is None:
        parts = [item_records.page(tx, cluster_id, after, most)]
    else:
        parts = [
            read(tx, cluster_id, stored, mark, after, most)
            for read, stored, mark in _ranges(job, cluster, state)
        ]
    unleased = S.CANCELLED if over else S.WAITING
    if state in (None, unleased):
        begin = max(after + 1, cluster.fresh)
        end = min(begin + most, cluster.items)
        parts.append([ItemRecord(index=nr, mark=0) for nr in range(begin, end)])
    for item in heapq.merge(*parts, key=lambda one: one.index):
        stands = items.seen(item, cluster, job)
        if state in (None, stands.state):
            yield stands


def _ranges(job: JobRecord, cluster: ClusterRecord, state: ItemState) -> list[tuple]:  # type: ignore[type-arg]
    """Where rows of items lie that stand in a state: how to read them, what is stored, the mark."""
    at, before = item_records.page_in, item_records.page_before
    if cluster.pool:
        every = partial(before, above=-1)
        last = max(cluster.marks, cluster.base) + 1
        again = [(before, S.FAILED, cluster.base)] if state is S.WAITING else []
        return [(every, state, last), *again]
    held = (S.LEASED, S.RUNNING)
    stale: list[tuple[Any, ItemState, int]] = [(before, one, cluster.mark + 1) for one in held]
    stale += [(at, S.WAITING, 0), (before, S.FAILED, cluster.base)]
    if cluster.redo:
        stale.append((partial(before, above=cluster.kept), S.FINISHED, cluster.mark))
    if state is S.FINISHED:
        if not cluster.redo:
            return [(at, state, 0)]
        since = [(at, state, cluster.mark)] if cluster.mark > cluster.kept else []
        return [(before, state, cluster.kept + 1), *since]
    if state is S.FAILED:
        return [(at, state, cluster.base)]
    if state in held:
        return [(at, state, cluster.mark)]
    if (state is S.CANCELLED) != (job.state in FINAL):
        return []
    return stale


def row(item: ItemRecord, name: str) -> m.ItemRow:
    """An item in a list."""
    return m.ItemRow(
        index=item.index,
        name=name,
        state=item.state,
        attempt=item.attempt,
        exit_code=item.exit_code,
        code=item.code,
        diagnosis=item.diagnosis,
        host=item.host,
        slot=item.slot,
        started=item.started,
        ended=item.ended,
    )


def find(tx: Tx, job: JobRecord, cluster: ClusterRecord, index: int) -> m.ItemDetail | None:
    """All about one item; None: there is none of that index."""
    if not 0 <= index < cluster.items:
        return None
    spec = _spec(items.specs(tx, cluster.list_id, (index,))[index])
    stored = item_records.some(tx, cluster.cluster_id, (index,)).get(index)
    item = items.seen(stored or ItemRecord(index=index, mark=0), cluster, job)
    usage, stdout_tail, stderr_tail = tx.one(
        "item.detail", cluster_id=cluster.cluster_id, index=index
    ) or (None, "", "")
    why, remedy = reason(item, cluster, job)
    named = item.state is S.FINISHED and spec.outputs
    return m.ItemDetail(
        job_id=job.job_id,
        row=row(item, spec.name or ""),
        spec=views.spec_for_people(spec),
        failures=item.failures,
        lost=item.lost,
        usage=None if usage is None else _usage(usage),
        stdout_tail=stdout_tail,
        stderr_tail=stderr_tail,
        files=views.files_of_item(tx, job.job_id, index) if named else (),
        why=why,
        remedy=remedy,
    )


def reason(item: ItemRecord, cluster: ClusterRecord, job: JobRecord) -> tuple[str, str]:
    """Why an item is where it is, in a sentence, and what would help."""
    where = f" on {item.host}" if item.host else ""
    if item.state is S.FINISHED:
        return f"it finished{where} in attempt {item.attempt}", ""
    if item.state is S.FAILED:
        said = item.diagnosis or f"exit code {item.exit_code}"
        again = "all payloads" if cluster.redo == Redo.ALL else "what failed"
        return (
            f"it failed{where} in attempt {item.attempt}, which was its last: {said}",
            f"dispatcher retry {job.job_id} runs {again} again, once the job has ended",
        )
    if item.state is S.CANCELLED:
        return f"its job {job.state} before it ended", f"dispatcher retry {job.job_id}"
    if item.state is S.RUNNING:
        return f"it runs{where}, in attempt {item.attempt}", ""
    if item.state is S.LEASED:
        return "the pilot of its job has it, and waits for a free slot for it", ""
    if cluster.pool:
        ahead = max(0, item.index - cluster.fresh)
        return f"it waits for a job of its step that has room for it, behind {ahead} others", ""
    if items.current(cluster, job) is None:
        return f"no pilot has its job, which is {job.state}", f"dispatcher why {job.job_id}"
    if item.failures or item.lost:
        failed = f"it failed {item.failures} times" if item.failures else "its node was lost"
        said = f": {item.diagnosis}" if item.diagnosis else ""
        return f"{failed}{said}; it waits for another attempt, behind those not begun yet", ""
    ahead = max(0, item.index - cluster.fresh)
    return f"it waits for a free slot of its job, behind {ahead} others", ""
