"""The items of a step of a task, which several jobs lease: one cluster for all of them, a *pool*.

Each attempt that leases has a row, a *lessee*, and a mark of its own, under which its items stand.
So nothing is written here, either, when an attempt ends: whoever finds nothing new to lease looks
which lessees are over, and lets their items wait again. What leaves outputs has finished for good
once the report of its attempt has come (`Redo.APART`); the lessee is *kept* then.

Who tells of an item must have it: otherwise another has it by now, or it was never leased to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.item import HELD_ITEM, TOGETHER, ItemChange, ItemState, item_after
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.task import MOST_STEPS
from ailurus.protocol.trees import MOST_FILES
from dispatcher.ports import Tx
from dispatcher.rules import item_records
from dispatcher.rules.item_records import ClusterRecord, Redo
from dispatcher.rules.item_slices import Slice, grow
from dispatcher.rules.records import JobRecord

S = ItemState
AHEAD = 4
"""Items that an attempt may have at once for each core of its job: some run, and some wait."""
NOBODY = ""
"""Whose the lists of steps are: no user can name them."""


def pool_id(task_id: int, step: int) -> int:
    """The cluster of a step. Those of jobs have numbers of jobs."""
    return -(task_id * MOST_STEPS + step + 1)


def pools_of(task_id: int) -> dict[str, int]:
    """Between which numbers the clusters of a task lie."""
    return {"low": pool_id(task_id, MOST_STEPS - 1), "high": pool_id(task_id, 0)}


def step_of(cluster_id: int) -> int:
    """The place of the step in its task."""
    return (-cluster_id - 1) % MOST_STEPS


def list_name(task_id: int, step: int) -> str:
    """The list of the payloads of a step."""
    return f"{task_id}.{step}"


def begin(
    tx: Tx,
    task_id: int,
    step: int,
    *,
    outputs: int,
    cores: int,
    most: int | None,
    tries: int | None,
    now: float,
) -> ClusterRecord:
    """Begin the pool of a step. `outputs`: how many each of its payloads leaves; `cores`: of each
    of its jobs; `most`: items that an attempt may take in all."""
    name = list_name(task_id, step)
    tx.one("list.add", owner=NOBODY, name=name, now=now)
    found = item_records.find_list(tx, NOBODY, name)
    assert found is not None  # noqa: S101 -- it was just begun
    tx.run("list.use", list_id=found.list_id)
    # A job leaves no more files.
    room = (MOST_FILES - 1) // outputs if outputs else 2**62
    tx.run(
        "pool.add",
        cluster_id=pool_id(task_id, step),
        list_id=found.list_id,
        tries=tries,
        redo=Redo.APART if outputs else Redo.NOTHING,
        room=min(room, most or room),
        at_once=min(TOGETHER, AHEAD * cores),
    )
    pool = item_records.find_pool(tx, pool_id(task_id, step))
    assert pool is not None  # noqa: S101 -- the same
    return pool


def feed(tx: Tx, task_id: int, step: int, part: Slice, *, now: float) -> None:
    """Add payloads to a pool."""
    found = item_records.find_list(tx, NOBODY, list_name(task_id, step))
    assert found is not None  # noqa: S101 -- its pool was begun
    grow(tx, found, replace(part, first=found.items), now=now)
    tx.run("pool.feed", cluster_id=pool_id(task_id, step), more=part.items)


def carry(tx: Tx, job_id: int, payloads: Payloads) -> None:
    """Let a new job lease items of a step."""
    found = item_records.find_list(tx, NOBODY, payloads.list)
    row = None if found is None else tx.one("pool.of_list", list_id=found.list_id)
    assert row is not None  # noqa: S101 -- only tasks make such jobs
    (cluster_id,) = row
    tx.run("cluster.add_job", job_id=job_id, cluster_id=cluster_id)


def may_take(cluster: ClusterRecord, count: int) -> int:
    """How many of `count` items an attempt may lease now."""
    if cluster.rests:
        return 0
    return max(0, min(count, cluster.at_once - cluster.held, cluster.room - cluster.taken))


def join(tx: Tx, cluster: ClusterRecord, job: JobRecord) -> ClusterRecord:
    """The pool as an attempt sees it that begins to lease."""
    mark = cluster.marks + 1
    tx.run(
        "lessee.add",
        cluster_id=cluster.cluster_id,
        mark=mark,
        job_id=job.job_id,
        attempt_nr=job.attempt_nr,
    )
    return replace(cluster, mark=mark, marks=mark, attempt_nr=job.attempt_nr)


def left(tx: Tx, cluster: ClusterRecord) -> int:
    """How many items an attempt could lease, later if not now: of those that wait again one stands
    for all."""
    if cluster.rests or cluster.taken >= cluster.room:
        return 0
    return cluster.items - cluster.fresh + waits_again(tx, cluster)


def waits_again(tx: Tx, cluster: ClusterRecord) -> bool:
    """Whether an item waits that had been leased before."""
    if not cluster.swept:
        return True
    return bool(item_records.page_in(tx, cluster.cluster_id, S.WAITING, 0, -1, 1))


def sweep(tx: Tx, cluster: ClusterRecord) -> ClusterRecord:
    """Let items wait that attempts had which are over, and those that are to be tried again, a
    thousand at a time. What the pool is then, which is to be put."""
    cluster_id = cluster.cluster_id
    rows: list[dict[str, Any]] = []
    for mark, kept in tx.all("lessee.gone", cluster_id=cluster_id, most=TOGETHER):
        stale = [(state, ItemChange.RETURN) for state in sorted(HELD_ITEM)]
        # What finished in one whose outputs are in storage has finished for good.
        stale += [(S.FINISHED, ItemChange.REDO)] * bool(cluster.redo and not kept)
        for state, change in stale:
            room = TOGETHER - len(rows)
            found = item_records.page_in(tx, cluster_id, state, mark, -1, room) if room else []
            rows += [
                {
                    "cluster_id": cluster_id,
                    "idx": item.index,
                    "state": item_after(item.state, change),
                    "failures": item.failures,
                    "lost": item.lost,
                }
                for item in found
            ]
            if change is ItemChange.REDO:
                cluster = replace(cluster, finished=cluster.finished - len(found))
        if len(rows) >= TOGETHER:
            break
        over = "lessee.emptied" if kept else "lessee.drop"
        tx.run(over, cluster_id=cluster_id, mark=mark)
    if not cluster.swept and len(rows) < TOGETHER:
        room = TOGETHER - len(rows)
        failed = item_records.page_before(tx, cluster_id, S.FAILED, cluster.base, -1, room)
        rows += [
            {
                "cluster_id": cluster_id,
                "idx": item.index,
                "state": item_after(item.state, ItemChange.AGAIN),
                "failures": 0,
                "lost": 0,
            }
            for item in failed
        ]
        cluster = replace(cluster, swept=int(len(failed) < room))
    if rows:
        tx.many("item.give_back", rows)
    return cluster


def stored(tx: Tx, cluster: ClusterRecord, report: m.Report) -> m.Report:
    """A report with only those outputs of items that its attempt finished, and nobody else."""
    if not report.files:
        return report
    named = sorted({one.item for one in report.files if one.item is not None})
    items = item_records.some(tx, cluster.cluster_id, named)
    mine = {
        index
        for index, item in items.items()
        if cluster.mark and item.state is S.FINISHED and item.mark == cluster.mark
    }
    files = tuple(one for one in report.files if one.item is None or one.item in mine)
    return replace(report, files=files)


def of_own_items(
    tx: Tx, cluster_id: int, job_id: int, pieces: Sequence[m.LogPiece]
) -> list[m.LogPiece]:
    """Those pieces that are of items which the job has: what others' write is not its to tell."""
    marks = {mark for (mark,) in tx.all("lessee.marks", job_id=job_id)}
    named = sorted({one.item for one in pieces if one.item is not None})
    items = item_records.some(tx, cluster_id, named)
    return [
        one
        for one in pieces
        if one.item in items
        and items[one.item].mark in marks
        and one.item_attempt == items[one.item].attempt
    ]
