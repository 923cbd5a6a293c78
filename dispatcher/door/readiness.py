"""Whether this dispatcher can serve now, for `/readyz`: it can when its store commits, when the
next job could be handed out, and when its loops turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ailurus.logs import Log
from dispatcher.ports import Store, Tx, Unavailable
from dispatcher.refusal import Rejected

# A store that takes longer for an empty commit is not ready.
PATIENCE_S = 3.0
# Anybody may ask: the store is asked once in this time, for all of them.
FRESH_S = 1.0
log = Log("health")


class Readiness:
    """Whether the store commits, checked at most once a second."""

    def __init__(self, store: Store, rehearse: Callable[[Tx], None] = lambda _: None) -> None:
        """`rehearse` runs the reads that precede a lease, and raises what would stop a queue."""
        self._store = store
        self._rehearse = rehearse
        self._checking: asyncio.Task[str] | None = None
        self._checked_at = 0.0

    async def check(self) -> None:
        """Raise Rejected (503) unless the store has just committed and no loop is down."""
        now = time.monotonic()
        if self._checking is None or (self._checking.done() and now - self._checked_at > FRESH_S):
            self._checked_at = now
            self._checking = asyncio.create_task(self._check())
        if fault := await asyncio.shield(self._checking):
            raise Rejected(503, "the store does not answer", detail=fault)
        if down := self._store.loops.down():
            raise Rejected(
                503,
                "the dispatcher does not do all of its work",
                detail="; ".join(map(str, down)),
                remedy="its log has a line `loop_failed` with the trace",
            )

    async def _check(self) -> str:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._store.write(lambda tx: tx.one("event.last"))
                await self._store.read(self._rehearse)
        except TimeoutError:
            return f"no commit within {PATIENCE_S:g} s"
        except Unavailable as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 -- a bug of ours is just what is looked for
            log.error("no_job_can_be_handed_out", trace=True)  # noqa: TRY400
            return f"no job can be handed out: {error!r}"
        return ""
