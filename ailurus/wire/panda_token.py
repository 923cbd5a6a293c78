"""A pilot's token at a PanDA server: from its file, or renewed with the key that lies beside it.

Names and pace are Pilot 3's. The renewed token stays in memory; if it is refused, the file is read
again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError

# The client to which the server issues the token.
CLIENT = "pilot_server"
RENEW_S = 3600.0
# After a failed renewal.
AGAIN_S = 300.0
log = Log("wire.panda")


class PandaToken:
    """The current token, which is renewed in time."""

    def __init__(
        self,
        first: Callable[..., str],
        key_file: Path | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._key_file = key_file
        self._now = now
        self._due = now()
        self._renewed = ""
        self._lock = threading.Lock()

    def __call__(self, *, fresh: bool = False) -> str:
        if fresh:
            self._renewed = ""
        return self._renewed or self._first(fresh=fresh)

    def renew(self, request: Callable[[Mapping[str, str]], Mapping[str, Any]]) -> None:
        """Get the next token if it is time. Until that succeeds the current one stays in use."""
        with self._lock:
            if self._key_file is None or self._now() < self._due:
                return
            self._due = self._now() + AGAIN_S
        try:
            key = self._key_file.read_text("utf-8").strip()
            answer = request({"client_name": CLIENT, "token_key": key})
        except (OSError, AilurusError) as error:
            log.warning("token_not_renewed", why=str(error))
            return
        # V1; legacy.
        data = answer.get("data") or answer
        token = data.get("user_proxy") or data.get("userProxy")
        if not isinstance(token, str) or not token:
            why = answer.get("message") or answer.get("errorDialog")
            log.warning("token_not_renewed", why=str(why)[:300])
            return
        self._renewed = token
        self._due = self._now() + RENEW_S
        log.info("token_renewed")


def key_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where the key lies: `PANDA_AUTH_TOKEN_KEY` is its name, or its path."""
    name = environment.get("PANDA_AUTH_TOKEN_KEY", "")
    place = environment.get("OIDC_AUTH_DIR") or environment.get("PANDA_AUTH_DIR") or ""
    # Of `dir/` the directory is `dir`, as Pilot 3 reads it.
    return Path(os.path.dirname(place), name) if name else None  # noqa: PTH120
