"""Items of jobs: what users upload and look at, and what pilots lease and tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemState
from ailurus.protocol.states import MAY_COME_BACK
from dispatcher.auth.caller import Caller
from dispatcher.ports import Ahead, Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import item_lists, item_records, item_views, items, records
from dispatcher.rules.item_records import ClusterRecord
from dispatcher.rules.items import GivenItems, Told
from dispatcher.rules.records import JobRecord
from dispatcher.service.liveness import Liveness
from dispatcher.service.state import State

T = TypeVar("T")
# Ends of items in one commit, and such a part beside which items are leased in the same.
PART, SMALL = 250, 100
# Items that are checked and encoded on the event loop.
FEW = 50


class Items:
    """The part of the service for jobs that carry items."""

    def __init__(self, state: State, liveness: Liveness) -> None:
        self._state = state
        self._liveness = liveness

    # users ---------------------------------------------------------------------------------------

    async def add_items(self, ask: m.AddItems, caller: Caller) -> m.ItemsAdded:
        """Store a slice of a list, once."""
        files = sum(len(item.inputs) + len(item.outputs) for item in ask.items)
        if len(ask.items) + files > FEW:
            part = await asyncio.to_thread(item_lists.prepare, ask)
        else:
            part = item_lists.prepare(ask)
        count = await self._state.store.write(
            lambda tx: item_lists.add(tx, caller.subject, ask.list, part, now=self._state.now()),
            Ahead(rows=2, all=True),
        )
        return m.ItemsAdded(count=count)

    async def items(self, ask: api.ItemsQuery, caller: Caller, job_id: int) -> m.ItemPage:
        """Items of a job, in their order."""
        state = _state(ask.state)
        return await self._looked(
            caller,
            job_id,
            lambda tx, job, cluster: item_views.page(tx, job, cluster, state, ask.after, ask.limit),
        )

    async def item(self, ask: api.ItemQuery, caller: Caller, job_id: int) -> m.ItemDetail:
        """All about one item of a job."""
        found = await self._looked(
            caller,
            job_id,
            lambda tx, job, cluster: item_views.find(tx, job, cluster, ask.index),
        )
        if found is None:
            raise Rejected(
                404,
                f"job {job_id} has no item {ask.index}",
                field="index",
                remedy=f"dispatcher show {job_id} says how many it has",
            )
        return found

    async def _looked(
        self, caller: Caller, job_id: int, look: Callable[[Tx, JobRecord, ClusterRecord], T]
    ) -> T:
        """What a look at the items of a caller's job gives. Raises Rejected if it has none."""

        def change(tx: Tx) -> T:
            job = records.find_job(tx, job_id)
            cluster = item_records.find_cluster(tx, job_id)
            if job is None or cluster is None:
                raise Rejected(
                    404,
                    f"job {job_id} carries no items",
                    field="job_id",
                    remedy="their details go with the job when it is moved away",
                )
            return look(tx, job, cluster)

        await self._state.job_of(job_id, caller.owns)
        return await self._state.store.read(change)

    # pilots --------------------------------------------------------------------------------------

    async def exchange_items(self, ask: m.ItemsRequest, caller: Caller) -> m.RawItemsAnswer:
        """Take a pilot's news of items, and lease it more of them."""
        worker = await self._liveness.worker_of(caller)
        until_s = self._liveness.renew(worker)
        lease = self._state.leases.held(worker.worker_id, ask.job_id, ask.attempt_nr)
        if lease is not None:
            self._state.leases.renew(lease, until_s, worker.last)
        stop: list[m.ItemKey] = []
        rest = ask.ended if len(ask.ended) <= SMALL else ()
        for at in range(0, 0 if rest else len(ask.ended), PART):
            part = ask.ended[at : at + PART]
            told = await self._state.store.write(
                lambda tx, part=part: self._tell(tx, ask, worker.worker_id, (), part),  # type: ignore[misc]
                Ahead([ask.job_id], attempts=True, rows=len(part)),
            )
            stop += told.stop

        def change(tx: Tx) -> tuple[Told, GivenItems]:
            told = self._tell(tx, ask, worker.worker_id, ask.begun, rest)
            job = records.find_job(tx, ask.job_id)
            if job is None or job.worker_id != worker.worker_id:
                return told, GivenItems((), 0, settled=False)
            given = items.lease(tx, job, ask.attempt_nr, request=ask.request_id, count=ask.count)
            return told, given

        rows = len(ask.begun) + len(rest) + ask.count
        told, given = await self._state.store.write(
            change, Ahead([ask.job_id], attempts=True, rows=rows)
        )
        return m.RawItemsAnswer(
            items=given.items,
            waiting=given.waiting,
            stop=(*stop, *told.stop),
            settled=given.settled,
            giver=self._state.giver,
        )

    def _tell(
        self,
        tx: Tx,
        ask: m.ItemsRequest,
        worker_id: int,
        begun: tuple[m.ItemBegun, ...],
        ended: tuple[m.ItemEnd, ...],
    ) -> Told:
        """Take news from a worker, if the attempt of the job is its own, or was until it was taken
        for lost."""
        job = records.find_job(tx, ask.job_id)
        attempt = records.find_attempt(tx, ask.job_id, ask.attempt_nr)
        mine = attempt is not None and attempt.worker_id == worker_id
        if job is None or attempt is None or not mine or attempt.state not in MAY_COME_BACK:
            return Told(0, tuple(m.ItemKey(index=b.index, attempt=b.attempt) for b in begun))
        return items.tell(tx, job, ask.attempt_nr, begun, ended)


def _state(word: str) -> ItemState | None:
    try:
        return ItemState(word) if word else None
    except ValueError:
        raise Rejected(
            422, f"{word!r} is no state of an item", field="state", remedy=", ".join(ItemState)
        ) from None
