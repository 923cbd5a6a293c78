"""What ran when on the nodes of a worker, and of the payloads that a job carries."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.item import FINAL_ITEM
from ailurus.protocol.messages.usage import NodeUsage
from dispatcher.auth.caller import Caller
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import item_records, items, timeline, worker_records
from dispatcher.rules.item_records import ClusterRecord
from dispatcher.rules.timeline import Run
from dispatcher.rules.worker_records import RunRecord
from dispatcher.service.peers import Peers
from dispatcher.service.state import State

# Rows of one read, between which others are served, and in all; jobs, which tell more each.
PART, MOST_ROWS, JOBS = 5000, 100_000, 1000
_held = msgspec.json.Decoder(m.Held).decode
_occupancy = msgspec.json.Decoder(m.Occupancy).decode
_usage = msgspec.json.Decoder(m.Usage).decode
_timing = msgspec.json.Decoder(dict[str, float]).decode


class Timelines:
    """The part of the service that shows use over time."""

    def __init__(self, state: State, peers: Peers) -> None:
        self._state, self._peers = state, peers

    async def worker_timeline(self, ask: api.WorkerTimelineQuery, caller: Caller) -> m.Timeline:
        """The lanes of a worker, be it alive or not. Jobs of others have no names in it."""
        stored = await self._state.store.read(
            lambda tx: worker_records.find_worker(tx, ask.worker_id)
        )
        if stored is None:
            raise Rejected(
                404,
                f"there is no worker {ask.worker_id}",
                field="worker_id",
                remedy="see `dispatcher workers --ended`",
            )
        row = self._state.worker_row(stored)
        if not caller.may(api.Scope.ADMIN):
            row = replace(row, intent="", index=0)
        live = self._state.live.get(ask.worker_id)
        told = live.occupancy if live is not None else None
        if told is None and stored.occupancy:
            told = _occupancy(stored.occupancy)
        runs, cut = await self._runs(row, caller)
        until = stored.ended if live is None and stored.ended else self._state.now()
        # The pilot's clock may differ.
        begin = min([row.registered or until, *(run.begin for run in runs)])
        found = await asyncio.to_thread(
            timeline.timeline,
            runs,
            _sizes(row, told),
            begin=begin if ask.begin is None else ask.begin,
            end=until if ask.end is None else ask.end,
            parts=ask.parts,
            cut=cut,
        )
        found = replace(found, worker=row, used=await self._used(row))
        if told is None:
            return found
        return replace(
            found,
            since=told.since,
            busy_core_s=told.busy_core_s,
            idle_core_s=told.idle_core_s,
        )

    async def _used(self, row: m.WorkerRow) -> tuple[NodeUsage, ...]:
        """What the jobs that a worker runs have used so far on each node: as its pilot told here,
        or at the dispatcher that hears it, which stores it for the next look."""
        leases = self._state.leases.of_worker(row.worker_id)
        told = [lease.usage for lease in leases if lease.usage is not None]
        if len(told) < len(leases):
            # For the next look.
            await self._peers.want_curves([one.job_id for one in leases if one.usage is None])
            told = await self._state.store.read(partial(_shown, worker_id=row.worker_id))
        return timeline.used_on(told, row.host)

    async def _runs(self, row: m.WorkerRow, caller: Caller) -> tuple[list[Run], bool]:
        """The runs of jobs on a worker; whether there are more than were looked at."""
        found: list[Run] = []
        after, rows = (-1.0, 0), 0
        # A job may have a run on each of a thousand nodes.
        while rows < MOST_ROWS and len(found) < MOST_ROWS:
            part = await self._state.store.read(
                partial(worker_records.runs, worker_id=row.worker_id, after=after, most=JOBS)
            )
            for one in part:
                found += _runs_of(one, row.host, caller)
            rows += len(part)
            if len(part) < JOBS:
                return found, False
            after = part[-1].leased, part[-1].job_id
        return found, True

    async def job_timeline(self, ask: api.TimelineQuery, caller: Caller, job_id: int) -> m.Timeline:
        """The lanes of the payloads that a job carries: of each its last attempt."""
        await self._state.job_of(job_id, caller.owns)
        cluster = await self._state.store.read(lambda tx: item_records.find_cluster(tx, job_id))
        if cluster is None:
            raise Rejected(
                404,
                f"job {job_id} carries no items",
                field="job_id",
                remedy="`dispatcher show` tells about a job without",
            )
        runs: list[Run] = []
        after, rows = -1, 0
        while rows < MOST_ROWS:
            found, cores = await self._state.store.read(
                partial(_items, cluster=cluster, after=after)
            )
            runs += [
                run
                for item in found
                if (run := _item_run(item, job_id, cores.get(item.index, 1))) is not None
            ]
            rows += len(found)
            if len(found) < PART:
                break
            after = found[-1].index
        now = self._state.now()
        begin = min((run.begin for run in runs), default=now)
        end = max((now if run.end is None else run.end for run in runs), default=now)
        return await asyncio.to_thread(
            timeline.timeline,
            runs,
            (),
            begin=begin if ask.begin is None else ask.begin,
            end=end if ask.end is None else ask.end,
            parts=ask.parts,
            cut=rows >= MOST_ROWS,
        )


def _shown(tx: Tx, *, worker_id: int) -> list[m.Usage]:
    return [_usage(text) for (text,) in tx.all("attempt.shown", worker_id=worker_id)]


class _Asked(Struct):
    """What an item asks for, as far as lanes mind it."""

    cores: int = 1


_asked = msgspec.json.Decoder(_Asked).decode


def _items(
    tx: Tx, *, cluster: ClusterRecord, after: int
) -> tuple[list[item_records.ItemRecord], dict[int, int]]:
    """Items that were leased once, and how many cores those ask for that ask for more than one, as
    far as their specifications are not too long to be read together."""
    found = item_records.page(tx, cluster.cluster_id, after, PART)
    specs = items.specs(tx, cluster.list_id, [item.index for item in found])
    wide = ((index, bytes(spec)) for index, spec in specs.items())
    return found, {index: _asked(spec).cores for index, spec in wide if b'"cores"' in spec}


def _runs_of(one: RunRecord, host: str, caller: Caller) -> list[Run]:
    bar = m.Bar(begin=one.leased, end=one.ended)
    if one.owner and caller.owns(one.owner):
        bar = m.Bar(
            job_id=one.job_id,
            attempt_nr=one.attempt_nr,
            name=one.name,
            state=one.state,
            begin=one.leased,
            end=one.ended,
            items=one.items,
        )
    if one.held:
        return list(timeline.runs_of(_held(one.held), bar, host))
    timing = _timing(one.timing) if one.timing else {}
    run = timeline.guessed(one, timing, bar, host)
    return [] if run is None else [run]


def _item_run(item: item_records.ItemRecord, job_id: int, cores: int) -> Run | None:
    if not item.started:
        return None
    if item.ended is None and item.state in FINAL_ITEM:
        return None
    bar = m.Bar(
        job_id=job_id,
        attempt_nr=item.attempt,
        item=item.index,
        name=item.name,
        state=item.state,
        begin=item.started,
        end=item.ended,
    )
    return Run(item.host, item.started, item.ended, cores, bar)


def _sizes(row: m.WorkerRow, told: m.Occupancy | None) -> tuple[m.NodeSize, ...]:
    """The nodes of a worker. Of an older pilot's only one can be called by its name."""
    if told is not None:
        return tuple(replace(node, name=node.name or row.host) for node in told.nodes)
    if len(row.total.groups) == 1 and row.total.nodes == 1:
        total = row.total.together
        return (m.NodeSize(name=row.host, cores=total.cores, gpus=total.gpus),)
    return ()
