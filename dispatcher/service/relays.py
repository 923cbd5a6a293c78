"""Requests of relays: those of many workers in one, each served as if it had come by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.errors import Code
from dispatcher.auth.caller import Caller
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import attempts, worker_records
from dispatcher.rules.attempts import WorkerAttempt
from dispatcher.rules.worker_records import WorkerHome
from dispatcher.service.delegation import Delegation
from dispatcher.service.heartbeats import Heartbeats
from dispatcher.service.items import Items
from dispatcher.service.state import LiveWorker, State
from dispatcher.service.uploads import Uploads
from dispatcher.service.workers import Workers

A = TypeVar("A")
Q = TypeVar("Q")
# Who gets a job at the same time comes with the same answer.
GATHER_S = 0.02


class Relays:
    """The part of the service that relays see."""

    def __init__(
        self,
        state: State,
        workers: Workers,
        heartbeats: Heartbeats,
        items: Items,
        delegation: Delegation,
        uploads: Uploads,
    ) -> None:
        self._state = state
        self._workers = workers
        self._heartbeats = heartbeats
        self._items = items
        self._delegation = delegation
        self._uploads = uploads

    async def relay_tell(self, ask: m.RelayBeat, caller: Caller) -> m.RelayBeatAnswer:
        """Heartbeats, and the other reports of workers, in this order: the ends of workers come
        last."""
        told = await asyncio.gather(*(self._beat(one, ask.site) for one in ask.beats))
        for release in ask.releases:
            await self._for(ask.site, release.worker_id, self._workers.release, release.release)
        for log in ask.logs:
            await self._for(ask.site, log.worker_id, self._workers.log_pieces, log.log)
        if ask.lost:
            await self._lost(ask)
        for bye in ask.byes:
            await self._for(ask.site, bye.worker_id, self._workers.bye, bye.bye)
        return m.RelayBeatAnswer(
            workers=tuple(told), heartbeat_s=self._state.heartbeat_s, giver=self._state.giver
        )

    async def relay_acquire(self, ask: m.RelayAcquire, caller: Caller) -> m.RawRelayAcquired:
        """Lease jobs to workers. One without an answer asks again and gets what it was leased."""
        tasks = {
            asyncio.create_task(self._acquire(one, ask.site, ask.wait_s)): one for one in ask.asks
        }
        waiting = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                answers = [one.result().got for one in done]
                if any(got is None or got.jobs or got.drain for got in answers):
                    await asyncio.wait(tasks, timeout=GATHER_S)
                    break
        finally:
            for task in tasks:
                task.cancel()
        answered = [one for one in tasks if one.done() and not one.cancelled()]
        return m.RawRelayAcquired(
            workers=tuple(one.result() for one in answered), giver=self._state.giver
        )

    async def _acquire(self, one: m.RelayedAcquire, site: str, wait_s: float) -> m.RawRelayedJobs:
        ask = m.Acquire(
            request_id=one.ask.request_id,
            room=one.ask.room,
            count=one.ask.count,
            wait_s=wait_s,
            ahead=one.ask.ahead,
            items=one.ask.items,
            item_files=one.ask.item_files,
            results=one.ask.results,
            uploads=one.ask.uploads,
            shared_items=one.ask.shared_items,
            hardware=one.ask.hardware,
        )
        got = await self._for(site, one.worker_id, self._workers.acquire, ask)
        return m.RawRelayedJobs(worker_id=one.worker_id, got=got)

    async def relay_items(self, ask: m.RelayItems, caller: Caller) -> m.RawItemsAnswer:
        """A worker's news of items, and more of them. Raises Rejected if it has ended."""
        got = await self._for(ask.site, ask.worker_id, self._items.exchange_items, ask.ask)
        if got is None:
            raise Rejected(410, "this worker has ended", remedy="exit")
        return got

    async def relay_credentials(self, ask: m.RelayCredentials, caller: Caller) -> m.Credentials:
        """What the job of a worker behind a relay names. Raises Rejected if the worker has
        ended, or has no such job."""
        call = self._delegation.credentials_for_relay
        got = await self._for(ask.site, ask.worker_id, call, ask.ask)
        if got is None:
            raise Rejected(410, "this worker has ended", remedy="exit")
        return got

    async def relay_upload(self, ask: m.RelayUpload, caller: Caller) -> m.UploadPiece:
        """A file that the job of a worker behind a relay names. Raises Rejected as
        `relay_credentials` does."""
        got = await self._for(ask.site, ask.worker_id, self._uploads.job_upload, ask.ask)
        if got is None:
            raise Rejected(410, "this worker has ended", remedy="exit")
        return got

    async def _beat(self, one: m.RelayedBeat, site: str) -> m.RelayedBeatAnswer:
        told = await self._for(site, one.worker_id, self._heartbeats.beat, one.beat)
        return m.RelayedBeatAnswer(worker_id=one.worker_id, told=told)

    async def _for(
        self, site: str, worker_id: int, call: Callable[[Q, Caller], Awaitable[A]], ask: Q
    ) -> A | None:
        """Do it as that worker of that site. None: there is no such worker, or no more."""
        live = self._state.live.get(worker_id)
        home: LiveWorker | WorkerHome | None = live
        if home is None:
            home = await self._state.store.read(lambda tx: worker_records.find_home(tx, worker_id))
        if home is None or home.site != site:
            return None
        worker = Caller(
            subject=f"worker:{worker_id}",
            scopes=frozenset({Scope.WORKER}),
            worker_id=worker_id,
            site=site,
            queue=home.queue,
        )
        try:
            return await call(ask, worker)
        except Rejected as rejected:
            if rejected.status == 410:
                return None
            raise

    async def _lost(self, ask: m.RelayBeat) -> None:
        """Attempts whose worker is silent: as if their leases had run out now."""
        leases = [
            lease
            for one in ask.lost
            if (lease := self._state.leases.of(one.job_id)) is not None
            and lease.attempt_nr == one.attempt_nr
            and (live := self._state.live.get(lease.worker_id)) is not None
            and live.site == ask.site
        ]

        def change(tx: Tx) -> None:
            for lease in leases:
                attempts.expire(
                    tx,
                    WorkerAttempt(lease.job_id, lease.attempt_nr, lease.worker_id),
                    reason=f"lost heartbeat: the relay of {ask.site} hears nothing of its worker",
                    code=Code.LOST_HEARTBEAT,
                    now=self._state.now(),
                )

        await self._state.store.write(change)
        for lease in leases:
            self._state.leases.drop_attempt(lease.job_id, lease.attempt_nr)
