"""Tokens that are no longer good, kept in the store: a restart or another process forgets none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol import messages as m
from dispatcher.auth.caller import BadToken, Caller
from dispatcher.auth.tokens import LONGEST_S, Issuer
from dispatcher.events import Entry, TokensRevoked
from dispatcher.ports import Store, Tx
from dispatcher.refusal import Rejected

# A store that takes longer to read a table is no good.
STUCK_S = 60.0
log = Log("revocation")


class Revocations:
    """Revokes tokens by their id, or all tokens of a subject so far."""

    def __init__(self, store: Store, issuer: Issuer) -> None:
        self._store = store
        self._issuer = issuer
        self._pending = asyncio.Event()

    async def open(self) -> None:
        """Read what was revoked before, and follow what other dispatchers revoke."""
        await self._read()
        self._store.listen(self._on_events)
        self._store.loops.task("revocations", self._follow, turn_s=STUCK_S)

    async def revoke(self, ask: m.Revoke, caller: Caller) -> m.Done:
        """Revoke on an administrator's request; in force from the answer on. Raises Rejected."""
        if bool(ask.subject) == bool(ask.token_id):
            raise Rejected(422, "a subject or a token's id is needed", field="subject")
        until = self._issuer.now() + LONGEST_S
        if ask.subject:
            what = f"sub:{ask.subject}"
            await self._refuse(what, self._issuer.now(), until)
        else:
            what = f"id:{ask.token_id}"
            await self._refuse(what, until, until)
        log.info("token_revoked", by=caller.subject, what=what)
        return m.Done()

    async def end(self, token: str) -> None:
        """Refuse this token from now on: a session that signed out. One that is not good is
        none."""
        with suppress(BadToken):
            caller = self._issuer.caller(token)
            await self._refuse(f"id:{caller.token_id}", caller.expires, caller.expires)

    async def _refuse(self, what: str, made_before: float, until: float) -> None:
        now = self._issuer.now()

        def change(tx: Tx) -> None:
            tx.run("refused.trim", now=now)
            tx.run("refused.add", what=what, made_before=made_before, until=until)
            tx.tell(TokensRevoked(what=what), at=now)

        await self._store.write(change)
        self._issuer.refuse([(what, made_before)])

    def _on_events(self, entries: Sequence[Entry]) -> None:
        if any(isinstance(one.event, TokensRevoked) for one in entries):
            self._pending.set()

    async def _follow(self, loop: Loop) -> None:
        """Read again after each event, until it is read: a token revoked elsewhere is revoked
        here."""
        while True:
            loop.turned(None)
            await self._pending.wait()
            loop.turned()
            self._pending.clear()
            try:
                await self._read()
            except Exception:
                self._pending.set()
                raise

    async def _read(self) -> None:
        now = self._issuer.now()
        rows = await self._store.read(lambda tx: tx.all("refused.all", now=now))
        self._issuer.refuse([(str(what), float(made_before)) for what, made_before, _ in rows])
