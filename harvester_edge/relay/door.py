"""The pilots' part of the native API, whatever carries it: a request in, a status and an answer
out."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX
from harvester_edge.relay.pilots import Pilots
from harvester_edge.relay.state import Refusal

ROUTES = (
    "register",
    "acquire",
    "beat",
    "report",
    "release",
    "log_pieces",
    "bye",
    "exchange_items",
    "job_credentials",
    "job_upload",
)
BY_PATH = {PREFIX + BY_NAME[name].path: name for name in ROUTES}
LONGEST = 8 * 1024 * 1024
_encode = msgspec.json.Encoder().encode
_decode: dict[str, Callable[[bytes], Any]] = {
    name: msgspec.json.Decoder(BY_NAME[name].ask).decode for name in ROUTES
}


class Door:
    """Answers requests; whatever comes, with a status."""

    def __init__(self, pilots: Pilots, log: Log) -> None:
        self._pilots, self._log = pilots, log

    async def answer(self, name: str, token: str, body: bytes) -> tuple[int, bytes]:
        """Status and body. `name` is one of `ROUTES`."""
        try:
            return 200, _encode(await self._call(name, token, _decode[name](body)))
        except Refusal as refusal:
            return self.refusal(refusal)
        except (msgspec.MsgspecError, RecursionError) as error:
            problem = m.Problem(title=str(error), status=422)
        except sqlite3.Error as error:
            self._log.error("store_failed", what=str(error))
            problem = m.Problem(title="the relay cannot write now", status=503)
        except Exception:  # noqa: BLE001 - the last line before the pilot
            self._log.error("request_broke", trace=True, route=name)
            problem = m.Problem(title="a bug of the relay", status=500)
        return problem.status, _encode(problem)

    def refusal(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and body, in our name."""
        problem = msgspec.structs.replace(refusal.problem, giver=self._pilots.name)
        return problem.status, _encode(problem)

    def admit(self, name: str, token: str) -> None:
        """Raise Refusal for a caller that may not ask this, before its body is read."""
        if name not in ("register", "report"):
            self._pilots.who(token)

    def _call(self, name: str, token: str, ask: Any) -> Awaitable[msgspec.Struct]:
        if name == "report":
            return self._pilots.report(ask)
        if name == "register":
            return self._pilots.register(ask, token)
        call: Callable[..., Awaitable[msgspec.Struct]] = getattr(self._pilots, name)
        return call(ask, self._pilots.who(token))
