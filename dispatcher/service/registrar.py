"""Tells the catalogue of data about outputs: what reports have written down, until it is done.

While the catalogue is away nothing is lost and nothing is written: it is asked again, at the latest
after a minute, and about fewer files each time, since these may be all that it has no answer about.
One about which alone it has none is passed over, and put off as soon as another goes well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ailurus.loops import Loop
from ailurus.protocol import messages as m
from dispatcher.auth.caller import Caller
from dispatcher.catalogue.link import CALL_S, Ask
from dispatcher.catalogue.messages import Close, Faults, NotNow, Register, Request
from dispatcher.events import Entry, Registering
from dispatcher.ports import CatalogueUnavailable, Fault, Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import registrations
from dispatcher.service.peers import Peers
from dispatcher.service.state import State, log

LOOK_S = 5.0
"""How often it is looked whether data sets can be closed, and other dispatchers have left work."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
TURN_S = CALL_S + 60.0


class Registrar:
    """Asks the catalogue, where there is one."""

    def __init__(self, state: State, peers: Peers, ask: Ask | None) -> None:
        self._state = state
        self._peers = peers
        self._ask = ask
        self._wake = asyncio.Event()
        self._after = ""
        # Outputs of one call, and how many of those that wait longest are passed over.
        self._together, self._passed = registrations.TOGETHER, 0
        self.waiting = self.refused = 0
        """Outputs that are to be registered, and those that were refused, as of the last turn."""
        self.away: m.Trouble | None = None
        """Why the catalogue cannot be asked, if it cannot."""

    def troubles(self) -> list[m.Trouble]:
        """What an operator should look at."""
        found = [] if self.away is None else [self.away]
        if self.refused:
            found.append(
                m.Trouble(
                    kind="not-registered",
                    sentence=f"the catalogue refused {self.refused} outputs",
                    remedy="`dispatcher why JOB` says why; `dispatcher register JOB` tries again",
                )
            )
        return found

    def start(self) -> None:
        """Begin, if there is a catalogue."""
        if self._ask is not None:
            self._state.store.listen(self._heed)
            self._state.loops.task("catalogue", self._run, turn_s=TURN_S)

    async def reregister(self, ask: m.Reregister, caller: Caller) -> m.Reregistered:
        """Try refused registrations of the caller's jobs again. Raises Rejected."""
        for job_id in ask.job_ids:
            await self._state.job_of(job_id, caller.owns)
        if self._ask is None:
            raise Rejected(
                409, "this dispatcher has no catalogue", remedy="`dispatcher serve --catalogue`"
            )

        def change(tx: Tx) -> int:
            now = self._state.now()
            return sum(registrations.again(tx, job_id, now=now) for job_id in ask.job_ids)

        return m.Reregistered(files=await self._state.store.write(change))

    def _heed(self, entries: Sequence[Entry]) -> None:
        if any(isinstance(one.event, Registering) for one in entries):
            self._wake.set()

    async def _run(self, loop: Loop) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                loop.turned()
                more = self._peers.leads and await self.turn()
            except CatalogueUnavailable as away:
                self._is_away(away)
                loop.turned(pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            if not more:
                loop.turned(LOOK_S)
                await self._rest()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def turn(self) -> bool:
        """Register some outputs that are due, and close some data sets. Whether there may be more
        to do now. Raises CatalogueUnavailable."""
        state = self._state
        more = await self._register()
        looked_after = self._after
        complete, self._after = await state.store.read(
            lambda tx: registrations.complete(tx, looked_after)
        )
        if complete:
            names = tuple(one.dataset for one in complete)
            left = await self._faults(Close(datasets=names))
            for key, fault in left.items():
                log.warning("dataset_not_closed", dataset=names[key], reason=fault.reason)
            done = [
                one
                for key, one in enumerate(complete)
                if key not in left or not left[key].transient
            ]
            await state.store.write(lambda tx: registrations.close(tx, done, now=state.now()))
        self.waiting, self.refused = await state.store.read(registrations.numbers)
        return more or bool(self._after)

    async def _register(self) -> bool:
        """Register some outputs that are due. Whether there may be more. Raises
        CatalogueUnavailable."""
        state, most = self._state, self._passed + self._together
        found = await state.store.read(
            lambda tx: registrations.due(tx, state.giver, state.now(), most)
        )
        if self._passed >= min(len(found), registrations.TOGETHER):
            self._passed = 0
        tried = found[: self._passed + self._together]
        passed, some = tried[: self._passed], tried[self._passed :]
        if not some:
            return False
        try:
            faults = await self._faults(Register(files=tuple(one.file for one in some)))
        except CatalogueUnavailable:
            self._passed += len(some) == 1
            self._together = max(1, len(some) // 4)
            raise
        later = "the catalogue had no answer about it, while it had about others"
        faults |= {
            key: Fault(key=key, reason=later, transient=True)
            for key in (one.file.key for one in passed)
        }
        await state.store.write(lambda tx: registrations.settle(tx, tried, faults, now=state.now()))
        self._passed = 0
        more = self._together + max(1, self._together // 8)
        self._together = min(more, registrations.TOGETHER)
        return len(found) == most

    async def _faults(self, request: Request) -> dict[int, Fault]:
        assert self._ask is not None  # noqa: S101 -- nothing runs without it
        match await self._ask(request):
            case NotNow(reason=reason, remedy=remedy):
                raise CatalogueUnavailable(reason, remedy)
            case Faults(faults=faults):
                self._is_back()
                return {fault.key: fault for fault in faults}
            case other:
                raise CatalogueUnavailable(f"the catalogue answered {type(other).__name__}")

    def _is_away(self, away: CatalogueUnavailable) -> None:
        since = self.away.since if self.away is not None else self._state.now()
        if self.away is None:
            log.warning("catalogue_away", reason=away.reason, remedy=away.remedy)
        self.away = m.Trouble(
            kind="catalogue-away",
            sentence=f"the catalogue does not answer, outputs are registered later: {away.reason}",
            remedy=away.remedy or "is it up? Nothing is lost: it is asked again each minute",
            since=since,
        )

    def _is_back(self) -> None:
        if self.away is not None:
            log.info("catalogue_back", since=self.away.since)
        self.away = None
