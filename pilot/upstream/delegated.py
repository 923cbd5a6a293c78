"""Credentials that a job's user delegated to it: fetched from the dispatcher each time they are
used, so that they are as new as the user has them."""

from __future__ import annotations

from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError, Code
from ailurus.wire.client import Refused
from pilot.attempt import Attempt
from pilot.clock import SYSTEM, Clock
from pilot.ports import JobError
from pilot.upstream.link import Link, backoff

PATIENCE_S = 600.0
"""How long an attempt waits for a dispatcher that does not answer."""
_KEEP = "`dispatcher credential keep {} --file FILE`, then retry the job"
SOONEST_S, LATEST_S = 30.0, 3600.0
"""Between two looks whether a user has renewed a credential."""


class Delegation:
    """Fetches credentials for attempts. Called from their threads."""

    def __init__(self, link: Link, clock: Clock = SYSTEM) -> None:
        self._link, self._clock = link, clock

    def fetch(self, attempt: Attempt) -> tuple[m.Credential, ...]:
        """What the job of this attempt names, as it is now. Raises JobError if one of them is not
        there or has expired, if the job is to stop, or if no dispatcher answers for long."""
        if not attempt.spec.credentials:
            return ()
        given = self._request(attempt).credentials
        has = {one.name for one in given}
        for use in attempt.spec.credentials:
            if use.name not in has:
                raise JobError(
                    Code.MISSING_CREDENTIALS,
                    f"its user has no credential {use.name!r} at the dispatcher any more",
                    field="credentials",
                    remedy=_KEEP.format(use.name),
                )
        now = self._clock.time()
        for one in given:
            if one.expires is not None and one.expires <= now:
                raise JobError(
                    Code.CREDENTIAL_EXPIRED,
                    f"the credential {one.name!r} expired {now - one.expires:.0f} s ago",
                    field="credentials",
                    remedy=_KEEP.format(one.name),
                )
        return given

    def next_look_s(self, given: tuple[m.Credential, ...]) -> float:
        """In how many seconds to fetch again: when half of the shortest life left is over."""
        now = self._clock.time()
        left = [one.expires - now for one in given if one.expires is not None]
        return min(LATEST_S, max(SOONEST_S, min(left, default=LATEST_S) / 2))

    def _request(self, attempt: Attempt) -> m.Credentials:
        request = m.CredentialsRequest(job_id=attempt.id[0], attempt_nr=attempt.id[1])
        deadline = self._clock.monotonic() + PATIENCE_S
        for pause_s in backoff():
            attempt.check()
            try:
                return self._link.call("job_credentials", request, answer=m.Credentials)
            except Refused as error:
                raise JobError(
                    Code.MISSING_CREDENTIALS,
                    f"the dispatcher gives no credentials: {error.message}",
                    field="credentials",
                    remedy=error.remedy
                    or "a dispatcher of this version must serve the job's queue",
                ) from None
            except AilurusError as error:
                if self._clock.monotonic() + pause_s > deadline:
                    raise JobError(
                        Code.SERVICE_UNAVAILABLE, f"cannot fetch credentials: {error.message}"
                    ) from None
            self._clock.wait(attempt.wakeup, pause_s)
        raise AssertionError("backoff() never ends")
