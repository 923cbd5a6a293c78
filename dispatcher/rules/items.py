"""How the items of a job are leased to its pilot and end, as functions of a transaction.

What is written of an item names the attempt of the job that had it, by a *mark* that grows from one
attempt to the next. When an attempt of the job is over nothing is written: an item that one has
whose time is past waits again, wherever it is read (`seen`). The next attempt finds such items in
parts, as it leases. So neither the loss of a job with a million items nor its retry or its
cancellation is a long commit. Items that were never leased have no row: the cluster counts them.

Only this module runs a statement that writes the state of an item, and asks the table of
`ailurus/protocol/item.py` each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.item import (
    FINAL_ITEM,
    HELD_ITEM,
    TOGETHER,
    ItemChange,
    ItemOutcome,
    ItemState,
    conclude_item,
    item_after,
    lease_item,
    run_item,
)
from ailurus.protocol.states import FINAL, WITH_WORKER, Refusal
from dispatcher.ports import Tx
from dispatcher.rules import item_pools, item_records
from dispatcher.rules.item_records import ClusterRecord, ItemRecord
from dispatcher.rules.records import JobRecord

S = ItemState
READ_BYTES = 8 << 20
"""Of a list of items, for one answer: a slice may be long."""
_encode = msgspec.json.Encoder().encode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Named(Struct):
    name: str | None = None


_named = msgspec.json.Decoder(_Named).decode


class Told(Struct, frozen=True):
    """What became of a pilot's news, and which of its items it is to stop."""

    accepted: int
    stop: tuple[m.ItemKey, ...]


class GivenItems(Struct, frozen=True):
    """What a pilot gets."""

    items: tuple[m.RawItemLease, ...]
    waiting: int
    settled: bool


def current(cluster: ClusterRecord, job: JobRecord) -> int | None:
    """The mark of the attempt that has a job now; None: nobody has it."""
    if cluster.job_id != job.job_id or job.state not in WITH_WORKER:
        return None
    if cluster.pool:
        return cluster.mark if cluster.attempt_nr == job.attempt_nr else None
    return cluster.base + job.attempt_nr


def seen(item: ItemRecord, cluster: ClusterRecord, job: JobRecord) -> ItemRecord:
    """An item as it stands: what its row says, and what has become of its job since."""
    state = item.state
    if state is S.FAILED and item.mark < cluster.base:
        state = S.WAITING
    if cluster.pool:
        # Which of the others' attempts are over is seen when more is leased.
        return item if state is item.state else replace(item, state=state)
    if state in HELD_ITEM and item.mark != current(cluster, job):
        state = S.WAITING
    if state is S.FINISHED and cluster.redo and cluster.kept < item.mark < cluster.mark:
        state = S.WAITING
    if job.state in FINAL and state not in FINAL_ITEM:
        state = S.CANCELLED
    return item if state is item.state else replace(item, state=state)


def tell(
    tx: Tx,
    job: JobRecord,
    attempt_nr: int,
    begun: Sequence[m.ItemBegun],
    ended: Sequence[m.ItemEnd],
) -> Told:
    """Take what the worker of an attempt of a job says of its items. What it says again, or too
    late, changes nothing; the first attempt of an item that finished wins."""
    cluster = item_records.find_cluster(tx, job.job_id, attempt_nr)
    if cluster is None or cluster.job_id != job.job_id or job.state in FINAL:
        return Told(0, tuple(m.ItemKey(index=one.index, attempt=one.attempt) for one in begun))
    news = _News(tx, cluster, job, attempt_nr)
    return news.take(begun, ended)


class _News:
    """One pilot's news of some items, on their way into the store."""

    def __init__(self, tx: Tx, cluster: ClusterRecord, job: JobRecord, attempt_nr: int) -> None:
        self._tx, self._cluster, self._job = tx, cluster, job
        self._mark = cluster.mark if cluster.pool else cluster.base + attempt_nr
        self._stop: list[m.ItemKey] = []
        # By index, as PostgreSQL takes each row once.
        self._runs: dict[int, dict[str, Any]] = {}
        self._ends: dict[int, dict[str, Any]] = {}

    def take(self, begun: Sequence[m.ItemBegun], ended: Sequence[m.ItemEnd]) -> Told:
        over = {(one.index, one.attempt) for one in ended}
        begun = [one for one in begun if (one.index, one.attempt) not in over]
        named = {one.index for one in begun} | {one.index for one in ended}
        items = item_records.some(self._tx, self._cluster.cluster_id, sorted(named))
        accepted = 0
        for end in ended:
            item = items.get(end.index)
            if item is not None and (after := self._end(item, end)) is not None:
                items[end.index] = after
                accepted += 1
        for start in begun:
            item = items.get(start.index)
            if item is None or (after := self._run(item, start)) is None:
                self._stop.append(m.ItemKey(index=start.index, attempt=start.attempt))
            else:
                items[start.index] = after
        for statement, rows in (("item.end", self._ends), ("item.run", self._runs)):
            if rows:
                self._tx.many(statement, rows.values())
        if accepted:
            item_records.put(self._tx, self._cluster)
        return Told(accepted, tuple(self._stop))

    def _run(self, item: ItemRecord, start: m.ItemBegun) -> ItemRecord | None:
        """None: that attempt of the item counts no more."""
        before = seen(item, self._cluster, self._job)
        after = run_item(before, start.attempt)
        if isinstance(after, Refusal) or item.mark != self._mark:
            return None
        if after is not before:
            self._runs[item.index] = {
                "cluster_id": self._cluster.cluster_id,
                "idx": item.index,
                "state": after.state,
                "host": start.host,
                "slot": start.slot,
                "started": start.at,
            }
        return after

    def _end(self, item: ItemRecord, end: m.ItemEnd) -> ItemRecord | None:
        cluster, before = self._cluster, seen(item, self._cluster, self._job)
        mine = item.mark == self._mark
        if cluster.pool and not (mine and before.state in HELD_ITEM):
            # It was never leased to this attempt, or another has it by now.
            return None
        if cluster.redo and self._mark < cluster.mark:
            # Its files went with its attempt of the job, which another has followed.
            return None
        # Of what another worker has now, only that it has finished here is of interest.
        if before.state in HELD_ITEM and not mine and end.outcome is not ItemOutcome.FINISHED:
            return None
        after = conclude_item(
            before, end.outcome, end.attempt, transient=end.transient, tries=cluster.tries
        )
        if isinstance(after, Refusal):
            return None
        if before.state in HELD_ITEM:
            # The pilot has begun it anew meanwhile: an earlier attempt of its own came back.
            if mine and end.attempt != item.attempt:
                self._stop.append(m.ItemKey(index=item.index, attempt=item.attempt))
            if item.mark == cluster.mark:
                cluster = replace(cluster, held=cluster.held - 1)
        mark = 0
        if after.state is S.FINISHED:
            mark = self._mark if cluster.redo else 0
            cluster = replace(cluster, finished=cluster.finished + 1, finishing=self._mark)
        elif after.state is S.FAILED:
            mark = cluster.base
            cluster = replace(cluster, failed=cluster.failed + 1)
        self._cluster, after = cluster, replace(after, mark=mark)
        self._ends[item.index] = _ended(cluster.cluster_id, after, end)
        return after


def _ended(cluster_id: int, after: ItemRecord, end: m.ItemEnd) -> dict[str, Any]:
    return {
        "cluster_id": cluster_id,
        "idx": after.index,
        "state": after.state,
        "mark": after.mark,
        "failures": after.failures,
        "lost": after.lost,
        "exit_code": end.exit_code,
        "code": end.code,
        "diagnosis": end.diagnosis,
        "host": end.host,
        "slot": end.slot,
        "started": end.started or None,
        "ended": end.ended or None,
        "usage": None if end.usage is None else _encode(end.usage).decode(),
        "stdout_tail": end.stdout_tail,
        "stderr_tail": end.stderr_tail,
    }


def lease(tx: Tx, job: JobRecord, attempt_nr: int, *, request: str, count: int) -> GivenItems:
    """Lease items of a job to the attempt that has it; a request that comes again gets the same."""
    cluster = item_records.find_cluster(tx, job.job_id, attempt_nr)
    if cluster is not None and cluster.pool:
        return _lease_shared(tx, cluster, job, attempt_nr, request=request, count=count)
    if cluster is None or current(cluster, job) != cluster.base + attempt_nr:
        return GivenItems((), 0, settled=False)
    mark = cluster.base + attempt_nr
    if cluster.request == request and cluster.mark == mark:
        return _given(cluster, _again(tx, cluster))
    before = cluster
    if cluster.mark != mark:
        cluster = replace(cluster, mark=mark, held=0, swept=0)
    if not cluster.swept:
        cluster = _sweep(tx, cluster)
    taken: list[m.RawItemLease] = []
    if count:
        cluster, taken = _take(tx, cluster, request, count)
    if cluster != before:
        item_records.put(tx, cluster)
    return _given(cluster, taken)


def _given(cluster: ClusterRecord, items: Iterable[m.RawItemLease]) -> GivenItems:
    left = cluster.items - cluster.ended - cluster.held
    return GivenItems(tuple(items), left, settled=settled(cluster, cluster.mark))


def settled(cluster: ClusterRecord, mark: int) -> bool:
    """Whether every item has ended, for the attempt of that mark. With `redo`, what an earlier one
    finished counts until it is found."""
    found = cluster.mark == mark and cluster.swept == 1
    return cluster.ended == cluster.items and (found or not cluster.redo)


def _again(tx: Tx, cluster: ClusterRecord) -> list[m.RawItemLease]:
    """What was leased last, as far as it has not ended."""
    held = _held(tx, cluster, cluster.mark)
    return _all_of(tx, cluster, [item for item in held if item.request_nr == cluster.request_nr])


def _held(tx: Tx, cluster: ClusterRecord, mark: int) -> Iterator[ItemRecord]:
    """What an attempt has."""
    for state in HELD_ITEM:
        yield from item_records.page_in(tx, cluster.cluster_id, state, mark, -1, cluster.items)


def _lease_shared(
    tx: Tx, cluster: ClusterRecord, job: JobRecord, attempt_nr: int, *, request: str, count: int
) -> GivenItems:
    """The same of items that several jobs lease. An attempt for which none waits, and that has
    none, is done."""
    if job.attempt_nr != attempt_nr or job.state not in WITH_WORKER:
        return GivenItems((), 0, settled=False)
    if cluster.mark and cluster.request == request:
        return GivenItems(tuple(_again(tx, cluster)), item_pools.left(tx, cluster), settled=False)
    before = cluster
    most = item_pools.may_take(cluster, count)
    if most and cluster.fresh + most > cluster.items:
        cluster = item_pools.sweep(tx, cluster)
    taken: list[m.RawItemLease] = []
    if most:
        if not cluster.mark:
            cluster = item_pools.join(tx, cluster, job)
        cluster, taken = _take(tx, cluster, request, most)
        cluster = replace(cluster, taken=cluster.taken + len(taken))
    if cluster != before:
        item_records.put(tx, cluster)
    waiting = item_pools.left(tx, cluster)
    done = bool(count) and not (waiting or cluster.held)
    return GivenItems(tuple(taken), waiting, settled=done)


def _sweep(tx: Tx, cluster: ClusterRecord) -> ClusterRecord:
    """Let some items wait that are left of attempts which are over."""
    stale = [(state, 0, cluster.mark, ItemChange.RETURN) for state in sorted(HELD_ITEM)]
    stale.append((S.FAILED, 0, cluster.base, ItemChange.AGAIN))
    if cluster.redo:
        stale.append((S.FINISHED, cluster.kept, cluster.mark, ItemChange.REDO))
    rows: list[dict[str, Any]] = []
    for state, above, mark, change in stale:
        left = TOGETHER - len(rows)
        found = item_records.page_before(tx, cluster.cluster_id, state, mark, -1, left, above=above)
        again = change is ItemChange.AGAIN
        rows += [
            {
                "cluster_id": cluster.cluster_id,
                "idx": item.index,
                "state": item_after(item.state, change),
                "failures": 0 if again else item.failures,
                "lost": 0 if again else item.lost,
            }
            for item in found
        ]
        if change is ItemChange.REDO:
            cluster = replace(cluster, finished=cluster.finished - len(found))
        if len(rows) == TOGETHER:
            break
    if rows:
        tx.many("item.give_back", rows)
    return replace(cluster, swept=int(len(rows) < TOGETHER))


def _take(
    tx: Tx, cluster: ClusterRecord, request: str, count: int
) -> tuple[ClusterRecord, list[m.RawItemLease]]:
    """Lease up to `count` items: first those that were never leased, then those that failed or were
    lost before, so that one that takes nodes with it does so last."""
    number = cluster.request_nr + 1
    base = ItemRecord(index=0, mark=cluster.mark, request_nr=number)
    last = min(cluster.fresh + count, cluster.items)
    found = specs(tx, cluster.list_id, range(cluster.fresh, last)) if last > cluster.fresh else {}
    new = [_leased(replace(base, index=index, name=name_of(spec))) for index, spec in found.items()]
    again: list[ItemRecord] = []
    if len(new) == last - cluster.fresh < count:
        waiting = item_records.page_in(tx, cluster.cluster_id, S.WAITING, 0, -1, count - len(new))
        left = READ_BYTES - sum(len(bytes(spec)) for spec in found.values())
        known = specs(tx, cluster.list_id, [item.index for item in waiting], left)
        again = [
            _leased(replace(item, mark=cluster.mark, request_nr=number))
            for item in waiting
            if item.index in known
        ]
        found |= known
    taken = new + again
    if not taken:
        return cluster, []
    if new:
        tx.many("item.add", [_row(cluster, item, "name") for item in new])
    if again:
        tx.many("item.lease", [_row(cluster, item, "failures", "lost") for item in again])
    cluster = replace(
        cluster,
        fresh=cluster.fresh + len(new),
        held=cluster.held + len(taken),
        request=request,
        request_nr=number,
    )
    return cluster, _specified(taken, found)


def _leased(item: ItemRecord) -> ItemRecord:
    after = lease_item(item)
    assert isinstance(after, ItemRecord)  # noqa: S101 -- it waits
    return after


def _row(cluster: ClusterRecord, item: ItemRecord, *more: str) -> dict[str, Any]:
    return {
        "cluster_id": cluster.cluster_id,
        "idx": item.index,
        "state": item.state,
        "mark": item.mark,
        "attempt": item.attempt,
        "request_nr": item.request_nr,
        **{name: getattr(item, name) for name in more},
    }


def name_of(spec: msgspec.Raw) -> str:
    """What an item calls itself; blank: nothing."""
    # Most have none, and are not read for it.
    return (_named(spec).name or "") if b'"name"' in bytes(spec) else ""


def specs(
    tx: Tx, list_id: int, indexes: Sequence[int], most: int = READ_BYTES
) -> dict[int, msgspec.Raw]:
    """The specifications of items, encoded, by index; ascending indexes are read together. Those in
    `most` bytes of their list, and at least the first: whoever wants the others asks again."""
    found: dict[int, msgspec.Raw] = {}
    for first, last in _spans(indexes):
        end = -1
        for slice_end, size in item_records.slice_sizes(tx, list_id, first, last):
            if size > most and (found or end >= 0):
                break
            end, most = slice_end, most - size
        for part in item_records.slices(tx, list_id, first, min(end, last)) if end >= 0 else ():
            all_of_it = enumerate(_raws(part.body), start=part.first)
            found.update(one for one in all_of_it if first <= one[0] <= last)
        if end < last:
            break
    return found


def _spans(indexes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending indexes as ranges without large holes."""
    begin = end = -1
    for index in indexes:
        if begin >= 0 and index > end + TOGETHER:
            yield begin, end
            begin = -1
        begin = index if begin < 0 else begin
        end = index
    if begin >= 0:
        yield begin, end


def _all_of(tx: Tx, cluster: ClusterRecord, items: Sequence[ItemRecord]) -> list[m.RawItemLease]:
    """What was leased together once, and so is not too much if it is read as it was then."""
    found: dict[int, msgspec.Raw] = {}
    for new in (True, False):
        indexes = sorted(item.index for item in items if (item.attempt == 1) is new)
        found |= specs(tx, cluster.list_id, indexes, most=2 * READ_BYTES)
    return _specified(items, found)


def _specified(
    items: Iterable[ItemRecord], found: Mapping[int, msgspec.Raw]
) -> list[m.RawItemLease]:
    return [
        m.RawItemLease(index=item.index, attempt=item.attempt, spec=found[item.index])
        for item in items
    ]
