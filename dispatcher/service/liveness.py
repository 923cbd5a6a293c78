"""Which worker speaks, and until when it and its leases hold by that."""

from __future__ import annotations

from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.events import WorkerChanged
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import worker_records
from dispatcher.service.state import LiveWorker, State, log


class Liveness:
    """Finds the worker of a token, and notes that it lives."""

    def __init__(self, state: State) -> None:
        self._state = state

    def renew(self, worker: LiveWorker) -> float:
        """Note that a worker has spoken. Returns until when it and its leases hold, in awake
        time."""
        until = self._state.awake.now + self._state.length(worker.worker_id)
        worker.last, worker.until, worker.flushed = self._state.now(), until, False
        return until

    async def worker_of(self, caller: Caller) -> LiveWorker:
        """The worker of a token. One that was given up for lost and speaks again is taken back."""
        worker = self._state.live.get(caller.worker_id)
        if worker is not None:
            return worker
        return await self._state.load_worker(caller.worker_id) or await self._back(caller)

    async def _back(self, caller: Caller) -> LiveWorker:
        """A worker that was taken for lost and speaks again, as the store knows it. That is
        said."""

        def change(tx: Tx) -> float:
            # The first of the two statements keeps the row to this change.
            state = worker_records.find_state(tx, caller.worker_id)
            worker = worker_records.find_worker(tx, caller.worker_id)
            ended = state is not None and state.phase == Phase.ENDED and state.ending != Ending.LOST
            if worker is None or ended:
                known = worker is not None
                raise Rejected(410, "this worker has ended", remedy="exit", known=known)
            silent_s = round(max(0.0, self._state.now() - (worker.last_heard or 0.0)), 1)
            tx.run(
                "worker.phase",
                worker_id=caller.worker_id,
                phase=Phase.ACTIVE,
                ending=None,
                ended=None,
                batch_id="",
                diagnosis=f"it was silent for {silent_s:.0f} s, taken for lost, and came back",
            )
            came = WorkerChanged(phase=Phase.ACTIVE, back=True, silent_s=silent_s)
            tx.tell(came, at=self._state.now(), worker_id=caller.worker_id)
            return silent_s

        silent_s = await self._state.store.write(change)
        log.warning("worker_back", worker_id=caller.worker_id, silent_s=silent_s)
        if (worker := await self._state.load_worker(caller.worker_id)) is None:
            raise Rejected(410, "this worker has ended", remedy="exit")
        worker.silent = True
        return worker
