"""Credentials that a job's user delegated to it: fetched from the dispatcher each time they are
used, so that they are as new as the user has them."""

from __future__ import annotations

import msgspec

from ailurus.envelope import Reader
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

_credentials = msgspec.json.Decoder(tuple[m.Credential, ...]).decode


class Delegation:
    """Fetches credentials for attempts. Called from their threads."""

    def __init__(self, link: Link, clock: Clock = SYSTEM) -> None:
        self._link, self._clock = link, clock

    def fetch(
        self, attempt: Attempt, *, patience_s: float = PATIENCE_S
    ) -> tuple[m.Credential, ...]:
        """What the job of this attempt names, as it is now. Raises JobError if one of them is not
        there or has expired, if the job is to stop, or if no dispatcher answers for long."""
        if not attempt.spec.credentials:
            return ()
        given = self._request(attempt, patience_s)
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

    def newest(self, attempt: Attempt) -> tuple[m.Credential, ...]:
        """As `fetch`, for an attempt that has some by now: these are used while no dispatcher
        answers and none of them has expired. Raises JobError."""
        now = self._clock.time()
        good = all(one.expires is None or one.expires > now for one in attempt.credentials)
        try:
            return self.fetch(attempt, patience_s=0.0 if good else PATIENCE_S)
        except JobError as error:
            if not good or error.code is not Code.SERVICE_UNAVAILABLE:
                raise
            attempt.note(f"credentials not renewed: {error.message}")
            return attempt.credentials

    def renew(self, attempt: Attempt) -> None:
        """Have newer credentials before files are tried again, where one has expired or soon will.
        If there are none, that storage refuses them will say more. Raises JobError if the job is to
        stop."""
        soon = self._clock.time() + SOONEST_S
        if all(one.expires is None or one.expires > soon for one in attempt.credentials):
            return
        try:
            attempt.credentials = self.fetch(attempt, patience_s=0.0)
        except JobError as error:
            attempt.check()
            attempt.note(f"credentials not renewed: {error}")

    def next_look_s(self, given: tuple[m.Credential, ...]) -> float:
        """In how many seconds to fetch again: when half of the shortest life left is over."""
        now = self._clock.time()
        left = [one.expires - now for one in given if one.expires is not None]
        return min(LATEST_S, max(SOONEST_S, min(left, default=LATEST_S) / 2))

    def _request(self, attempt: Attempt, patience_s: float) -> tuple[m.Credential, ...]:
        reader = Reader()
        request = m.CredentialsRequest(
            job_id=attempt.id[0], attempt_nr=attempt.id[1], sealed_to=reader.public
        )
        deadline = self._clock.monotonic() + patience_s
        for pause_s in backoff():
            attempt.check()
            try:
                answer = self._link.call("job_credentials", request, answer=m.Credentials)
                return _opened(answer, request, reader)
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
            attempt.pause(pause_s)
        raise AssertionError("backoff() never ends")


def _opened(
    answer: m.Credentials, request: m.CredentialsRequest, reader: Reader
) -> tuple[m.Credential, ...]:
    """Those of an answer, which a relay passes on sealed. Raises AilurusError for what was not
    sealed for this request."""
    if not answer.sealed:
        return answer.credentials
    try:
        return _credentials(reader.open(answer.sealed, request.bound))
    except (ValueError, msgspec.MsgspecError) as error:
        raise AilurusError(
            f"what the relay passed on as credentials cannot be read: {error}"
        ) from None
