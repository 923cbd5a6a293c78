"""Credentials that users keep here for their jobs, and the workers that get them.

A worker gets those that a job names, while the job is leased to it; each time as they are then, so
that a user who renews one renews it for the jobs that run.
"""

from __future__ import annotations

import msgspec

from ailurus.credential_text import describe
from ailurus.envelope import seal
from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import OPEN_ATTEMPT
from dispatcher.auth.caller import Caller
from dispatcher.auth.delegated import Vault
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import credentials, records, specs
from dispatcher.rules.records import SealedCredential
from dispatcher.service.state import State, log


class Delegation:
    """The part of the service that keeps users' credentials."""

    def __init__(self, state: State, secret: bytes) -> None:
        self._state = state
        self._vault = Vault(secret)

    async def credentials(self, ask: api.NoQuery, caller: Caller) -> m.CredentialRows:
        """What the caller's credentials are; nobody sees the secrets."""
        found = await self._state.store.read(lambda tx: credentials.rows(tx, caller.subject))
        return m.CredentialRows(credentials=tuple(found))

    async def keep_credential(self, ask: m.NewCredential, caller: Caller) -> m.CredentialRow:
        """Keep a credential of the caller. Raises Rejected for what is none, or has expired."""
        now = self._state.now()
        try:
            described = describe(ask.secret)
        except AilurusError as error:
            raise Rejected(422, error.message, field=error.field, remedy=error.remedy) from None
        if described.expires is not None and described.expires <= now:
            raise Rejected(
                422, "the credential has expired", field="secret", remedy="make a new one"
            )
        row = m.CredentialRow(
            name=ask.name,
            kind=described.kind,
            expires=described.expires,
            subject=described.subject,
            changed=now,
        )
        sealed = self._vault.seal(caller.subject, ask.name, ask.secret)
        await self._state.store.write(lambda tx: credentials.keep(tx, caller.subject, row, sealed))
        return row

    async def forget_credentials(self, ask: m.ForgetCredentials, caller: Caller) -> m.Done:
        """Forget credentials of the caller."""
        await self._state.store.write(lambda tx: credentials.forget(tx, caller.subject, ask.names))
        return m.Done()

    async def job_credentials(self, ask: m.CredentialsRequest, caller: Caller) -> m.Credentials:
        """The credentials that a job names, for the worker to which it is leased. One that is not
        there any more is left out. Raises Rejected for another worker's attempt."""

        def gather(tx: Tx) -> tuple[str, JobSpec, dict[str, SealedCredential]]:
            job = records.find_job(tx, ask.job_id)
            attempt = records.find_attempt(tx, ask.job_id, ask.attempt_nr)
            own = attempt is not None and attempt.worker_id == caller.worker_id
            if job is None or attempt is None or not own or attempt.state not in OPEN_ATTEMPT:
                raise Rejected(
                    403, "this attempt is not leased to the caller", field="job_id, attempt_nr"
                )
            spec = specs.specification(tx, ask.job_id, job.name)
            found = {
                use.name: one
                for use in spec.credentials
                if (one := records.find_credential(tx, job.owner, use.name)) is not None
            }
            return job.owner, spec, found

        owner, spec, found = await self._state.store.read(gather)
        given = tuple(
            m.Credential(
                name=use.name,
                kind=m.CredentialKind(one.kind),
                secret=self._opened(owner, use.name, one.sealed),
                expires=one.expires,
                payload=use.payload,
            )
            for use in spec.credentials
            if (one := found.get(use.name)) is not None
        )
        log.info(
            "credentials_given",
            job_id=ask.job_id,
            worker_id=caller.worker_id,
            names=[one.name for one in given],
        )
        return m.Credentials(credentials=given)

    async def credentials_for_relay(
        self, ask: m.CredentialsRequest, caller: Caller
    ) -> m.Credentials:
        """The same, for a worker behind a relay: sealed for the pilot that asks, so that nothing
        readable lies in the relay's spool. Raises Rejected for one that says no key."""
        given = (await self.job_credentials(ask, caller)).credentials
        try:
            sealed = seal(msgspec.json.encode(given), ask.sealed_to, ask.bound)
        except ValueError:
            raise Rejected(
                422,
                "credentials go through a relay for a pilot that names a key alone",
                field="sealed_to",
                remedy="start pilots of the relay's version",
            ) from None
        return m.Credentials(sealed=sealed, giver=self._state.giver)

    def _opened(self, owner: str, name: str, sealed: str) -> str:
        try:
            return self._vault.open(owner, name, sealed)
        except ValueError as error:
            log.error("credential_unreadable", owner=owner, name=name, what=str(error))
            raise Rejected(
                422,
                f"the credential {name!r} was kept under other keys than this dispatcher has",
                remedy=f"its user must do `dispatcher credential keep {name}` again",
            ) from None
