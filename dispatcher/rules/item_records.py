"""Rows of the store about items with names and types, as `records.py` has those of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.item import ItemProgress, ItemState
from dispatcher.ports import Row, Tx

_encode = msgspec.json.Encoder().encode
_STATES = {state.value: state for state in ItemState}


class Redo(IntEnum):
    """Which outputs go with a lost attempt of a job of items, and with them what finished in it."""

    NOTHING = 0
    ALL = 1
    """The job names outputs: they are of all of its items together."""
    APART = 2
    """Items alone name some: each has its own, so those of an attempt that stored them are kept."""


class ListRecord(Struct, frozen=True):
    """A list of items that is being uploaded, or has been: `list.get`."""

    list_id: int
    items: int
    bare: int
    """Those without a command of their own."""
    cores: int
    """The most that one of them asks for, like the next two."""
    memory_mb: int
    gpus: int
    outputs: int
    """How many all of them name."""
    inputs: int


class ClusterRecord(Struct, frozen=True):
    """The items of a job: `cluster.get`."""

    cluster_id: int
    job_id: int | None
    """The job that has them now."""
    list_id: int
    items: int
    needed: int
    tries: int | None
    redo: int
    """What finished goes with the attempt of the job in which it did, unless that is the last: see
    `Redo`."""
    base: int
    """The mark of items that failed for good; attempt n of the job leases under base + n."""
    fresh: int
    """Items from here on were never leased, and have no row."""
    finished: int
    failed: int
    mark: int
    """Of the attempt of the job that leased last; `held` items are its."""
    held: int
    swept: int
    """Whether it has found all that was left behind by those before it."""
    finishing: int
    """The mark under which an item finished last."""
    kept: int
    """What finished under a mark up to this one has its outputs in storage, and is never redone."""
    request: str
    request_nr: int
    pool: int = 0
    """1: they are those of a step, and several jobs lease them, see `item_pools`. From `mark` to
    `request_nr` but for `swept` all is said of the attempt that leases."""
    room: int = 0
    """Of a pool: how many an attempt may take in all."""
    at_once: int = 0
    """Of a pool: how many an attempt may have."""
    rests: int = 0
    """1: none is leased for now."""
    marks: int = 0
    """Of a pool: the last mark that was given out."""
    attempt_nr: int = -1
    taken: int = 0

    @property
    def ended(self) -> int:
        return self.finished + self.failed


class PoolRecord(Struct, frozen=True):
    """How far the items of a step are that several jobs lease: `pool.counts`."""

    cluster_id: int
    items: int
    fresh: int
    """How many were leased once."""
    finished: int
    failed: int
    held: int
    """How many attempts have."""


class ItemRecord(ItemProgress, frozen=True, kw_only=True):
    """An item that was leased once."""

    index: int
    mark: int
    request_nr: int = 0
    name: str = ""
    exit_code: int | None = None
    code: int = 0
    diagnosis: str = ""
    host: str = ""
    slot: str = ""
    started: float | None = None
    ended: float | None = None


class SliceRecord(Struct, frozen=True):
    """Part of a list of items, encoded: `slice.at`."""

    first: int
    body: bytes


def find_list(tx: Tx, owner: str, name: str) -> ListRecord | None:
    """A list of an owner."""
    row = tx.one("list.get", owner=owner, name=name)
    return None if row is None else ListRecord(*row)


def find_cluster(tx: Tx, job_id: int, attempt_nr: int = -1) -> ClusterRecord | None:
    """The items that a job carries, or did carry before another tried it again; of a pool as an
    attempt of the job sees it, or the last that leased."""
    row = tx.one("cluster.get", of_job=job_id)
    found = None if row is None else ClusterRecord(*row)
    if found is None or not found.pool:
        return found
    pool = _pool(found)
    lessee = tx.one("lessee.of", job_id=job_id, attempt_nr=attempt_nr)
    if lessee is None:
        return replace(pool, job_id=job_id, attempt_nr=attempt_nr)
    names = ("mark", "attempt_nr", "held", "taken", "finishing", "kept", "request", "request_nr")
    return replace(pool, job_id=job_id, **dict(zip(names, lessee, strict=True)))


def find_pool(tx: Tx, cluster_id: int) -> ClusterRecord | None:
    """The items of a step which several jobs lease, as none of them sees it."""
    row = tx.one("pool.get", cluster_id=cluster_id)
    return None if row is None else _pool(ClusterRecord(*row))


def _pool(found: ClusterRecord) -> ClusterRecord:
    return replace(found, marks=found.mark, mark=0)


def pools(tx: Tx, low: int, high: int) -> list[PoolRecord]:
    """How far the items of steps are whose clusters have such numbers."""
    return [PoolRecord(*row) for row in tx.all("pool.counts", low=low, high=high)]


def some(tx: Tx, cluster_id: int, indexes: Iterable[int]) -> dict[int, ItemRecord]:
    """Those of these items that were leased once, by index."""
    ids = _encode(list(indexes)).decode()
    found = map(_item, tx.all("item.some", cluster_id=cluster_id, ids=ids))
    return {item.index: item for item in found}


def page(tx: Tx, cluster_id: int, after: int, most: int) -> list[ItemRecord]:
    """Items that were leased once, in their order."""
    values = {"cluster_id": cluster_id, "after": after, "most": most}
    return [_item(row) for row in tx.all("item.page", **values)]


def page_in(
    tx: Tx, cluster_id: int, state: ItemState, mark: int, after: int, most: int
) -> list[ItemRecord]:
    """The same in a state, with a mark."""
    values = {"cluster_id": cluster_id, "in_state": state, "mark": mark}
    return [_item(row) for row in tx.all("item.page_in", **values, after=after, most=most)]


def page_before(
    tx: Tx, cluster_id: int, state: ItemState, mark: int, after: int, most: int, *, above: int = 0
) -> list[ItemRecord]:
    """The same in a state, with a mark below that one and `above` another."""
    values = {"cluster_id": cluster_id, "in_state": state, "mark": mark, "above": above}
    return [_item(row) for row in tx.all("item.page_before", **values, after=after, most=most)]


def slice_sizes(tx: Tx, list_id: int, index: int, last: int) -> Iterator[tuple[int, int]]:
    """The last item of each of the slices that hold the items from `index` to `last`, and its
    bytes."""
    for first, items, size in tx.all("slice.sizes", list_id=list_id, index=index, last=last):
        yield first + items - 1, size


def slices(tx: Tx, list_id: int, index: int, last: int) -> Sequence[SliceRecord]:
    """The slices that hold the items from `index` to `last`."""
    rows = tx.all("slice.at", list_id=list_id, index=index, last=last)
    return [SliceRecord(first, bytes(body)) for first, body in rows]


def put(tx: Tx, cluster: ClusterRecord) -> None:
    """Write how far the items of a job are."""
    if cluster.pool:
        _put_pool(tx, cluster)
        return
    tx.run(
        "cluster.put",
        cluster_id=cluster.cluster_id,
        fresh=cluster.fresh,
        finished=cluster.finished,
        failed=cluster.failed,
        mark=cluster.mark,
        held=cluster.held,
        swept=cluster.swept,
        finishing=cluster.finishing,
        kept=cluster.kept,
        request=cluster.request,
        request_nr=cluster.request_nr,
    )


def _put_pool(tx: Tx, cluster: ClusterRecord) -> None:
    place = {"cluster_id": cluster.cluster_id}
    tx.run(
        "pool.put",
        **place,
        fresh=cluster.fresh,
        finished=cluster.finished,
        failed=cluster.failed,
        mark=cluster.marks,
        swept=cluster.swept,
    )
    if cluster.mark:
        tx.run(
            "lessee.put",
            **place,
            mark=cluster.mark,
            held=cluster.held,
            taken=cluster.taken,
            finishing=cluster.finishing,
            kept=cluster.kept,
            request=cluster.request,
            request_nr=cluster.request_nr,
        )


def _item(row: Row) -> ItemRecord:
    (
        index,
        state,
        mark,
        attempt,
        failures,
        lost,
        request_nr,
        name,
        exit_code,
        code,
        diagnosis,
        host,
        slot,
        started,
        ended,
    ) = row
    return ItemRecord(
        state=_STATES[state],
        attempt=attempt,
        failures=failures,
        lost=lost,
        index=index,
        mark=mark,
        request_nr=request_nr,
        name=name,
        exit_code=exit_code,
        code=code,
        diagnosis=diagnosis,
        host=host,
        slot=slot,
        started=started,
        ended=ended,
    )
