"""The thread of a job of items that waits for the dispatcher."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from pilot.attempt import Attempt
from pilot.items.news import Answered, News
from pilot.ports import JobError
from pilot.upstream.leases import Leases


def ask(
    asks: SimpleQueue[m.ItemsRequest | m.LogPieces | None],
    attempt: Attempt,
    leases: Leases,
    inbox: SimpleQueue[News],
    showing: Event,
) -> None:
    """Send what comes until None does; whatever that meets comes to the job's own thread. `showing`
    is cleared when pieces of logs have gone."""
    while (request := asks.get()) is not None:
        try:
            if isinstance(request, m.LogPieces):
                leases.show(request)
                showing.clear()
                continue
            inbox.put(Answered(leases.exchange(attempt, request)))
        except JobError as error:
            inbox.put(Answered(None, error))
        except Exception as error:  # noqa: BLE001 - the job ends by it, and the pilot does not
            what = f"the pilot itself failed: {type(error).__name__}: {error}"
            inbox.put(Answered(None, JobError(Code.INTERNAL, what)))
