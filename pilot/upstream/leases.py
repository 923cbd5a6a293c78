"""Items of a job: leased from the dispatcher, with the news of those that are here."""

from __future__ import annotations

from ailurus.logs import Log, ThrottledLog
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError, Code
from ailurus.wire import authority
from ailurus.wire.client import Refused
from pilot.attempt import Attempt
from pilot.ports import JobError
from pilot.upstream.link import Dismissed, Link, backoff


class Leases:
    """Exchanges news for leases. Called from threads of jobs."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._log = Log("pilot.upstream.leases")
        self._trouble = ThrottledLog(self._log)

    @property
    def heartbeat_s(self) -> float:
        return self._link.registered.heartbeat_s

    def exchange(self, attempt: Attempt, request: m.ItemsRequest) -> m.ItemsAnswer:
        """The dispatcher's answer, however long it is away. Raises JobError if it refuses, or if
        the job is to stop before it answers."""
        pauses = backoff()
        while True:
            try:
                answer = self._link.call("exchange_items", request, answer=m.ItemsAnswer)
            except (Dismissed, Refused) as error:
                raise JobError(
                    Code.KILLED_BY_SERVER, f"the dispatcher gives no items: {error}"
                ) from None
            except AilurusError as error:
                self._trouble.warning("dispatcher_silent", str(error))
                self._wait(attempt, next(pauses))
            else:
                # Another's would let ends be forgotten that nobody has noted.
                if answer.giver == self._link.registered.giver:
                    self._trouble.resolved("dispatcher_silent")
                    return answer
                self._trouble.warning("dispatcher_silent", authority.UNKNOWN)
                self._wait(attempt, next(pauses))

    def show(self, pieces: m.LogPieces) -> None:
        """Send what items have written. Never raises: a live log is a service."""
        try:
            self._link.call("log_pieces", pieces, answer=m.Done)
        except AilurusError as error:
            self._log.info("log_not_sent", what=str(error))

    def _wait(self, attempt: Attempt, seconds: float) -> None:
        attempt.check()
        attempt.pause(seconds)
        attempt.check()
