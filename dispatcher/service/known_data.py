"""What the catalogue of data knows of inputs: asked for once for the many jobs that read the
same."""

from __future__ import annotations

import asyncio

from dispatcher.catalogue.link import Ask
from dispatcher.catalogue.messages import Faults, NotNow, Resolve, Resolved
from dispatcher.ports import CatalogueUnavailable, Contents
from dispatcher.service.state import State

# An answer is good for so long; a client that asks for a job waits no longer for one.
KEPT_S, WAIT_S = 60.0, 30.0
MOST_KEPT = 100
MOST_ASKED = 100
"""Questions that wait for the catalogue: what has been written waits behind them."""


class KnownData:
    """Asks the catalogue, where there is one."""

    def __init__(self, state: State, ask: Ask | None) -> None:
        self._state = state
        self._ask = ask
        self._kept: dict[str, tuple[float, Contents | None]] = {}
        self._asking: dict[str, asyncio.Future[Contents | CatalogueUnavailable | None]] = {}

    async def of(self, did: str) -> Contents | None:
        """What `scope:name` names; None: nothing is known of it. Raises CatalogueUnavailable."""
        if self._ask is None:
            return None
        kept = self._kept.get(did)
        if kept is not None and self._state.awake.now - kept[0] < KEPT_S:
            return kept[1]
        # Whoever waited in vain finds the answer when it asks again.
        asked = self._asking.get(did)
        if asked is None:
            if len(self._asking) >= MOST_ASKED:
                raise CatalogueUnavailable(f"the catalogue is busy: {did} is not asked for yet")
            asked = self._state.loops.once("known data", self._asked(self._ask, did))
            self._asking[did] = asked
            asked.add_done_callback(lambda _: self._asking.pop(did, None))
        try:
            answer = await asyncio.wait_for(asyncio.shield(asked), WAIT_S)
        except TimeoutError:
            raise CatalogueUnavailable(f"the catalogue is busy: {did} is not known yet") from None
        if isinstance(answer, CatalogueUnavailable):
            raise answer
        return answer

    async def _asked(self, ask: Ask, did: str) -> Contents | CatalogueUnavailable | None:
        try:
            match await ask(Resolve(did=did)):
                case Resolved(contents=contents):
                    self._keep(did, contents)
                    return contents
                case Faults(faults=(fault, *_)) if not fault.transient:
                    # Whoever stages it in is refused, too, and says more.
                    self._keep(did, None)
                    return None
                case Faults(faults=(fault, *_)):
                    return CatalogueUnavailable(fault.reason, fault.remedy)
                case NotNow(reason=reason, remedy=remedy):
                    return CatalogueUnavailable(reason, remedy)
                case other:
                    return CatalogueUnavailable(f"the catalogue answered {type(other).__name__}")
        except CatalogueUnavailable as away:
            return away

    def _keep(self, did: str, contents: Contents | None) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[did] = self._state.awake.now, contents
