"""Which dispatcher to talk to, and with which token.

The token comes from --token-file, AILURUS_TOKEN_FILE, then by WLCG bearer token discovery; never
from an option, which others could see in the process list.
"""

from __future__ import annotations

import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ailurus.output import clean
from ailurus.protocol.errors import AilurusError
from ailurus.token_discovery import discovered
from dispatcher.cli.exits import CONFIGURATION, CommandError

if TYPE_CHECKING:
    from ailurus.wire.client import Client

SAY_AFTER_S = 1.0
SAY_AGAIN_S = 60.0
# Between two tries of one silence lies less: a long poll's time-out and a pause.
LONGEST_PAUSE_S = 90.0
DEFAULT_URL = "http://127.0.0.1:8080"


def url_of(args: Namespace) -> str:
    """The dispatcher's address."""
    return str(args.url or os.environ.get("AILURUS_URL") or DEFAULT_URL).rstrip("/")


def connect(args: Namespace, *, patience_s: float = 5.0) -> Client:
    """A client for the verb. `patience_s`: how long to try while nobody answers."""
    from ailurus.wire.client import Client
    from ailurus.wire.credentials import TokenFile, Trust, fixed_token
    from ailurus.wire.retry import Patience

    path, text = found_token(args.token_file, os.environ)
    token: Callable[..., str] = fixed_token(text) if path is None else TokenFile(path)
    trust = Trust.of_options(args.ca, args.pin, os.environ)
    url = url_of(args)
    patience = Patience(total_s=patience_s)
    return Client(url, token, patience=patience, trust=trust, on_silence=Silence(url))


class Silence:
    """Says on stderr that nobody answers: who waits at a terminal must not think that all is
    well."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock
        self._began = self._last = self._warned = -math.inf

    def __call__(self, reason: str) -> None:
        now = self._clock()
        if now - self._last > LONGEST_PAUSE_S:
            self._began, self._warned = now, -math.inf
        self._last = now
        if now - self._began >= SAY_AFTER_S and now - self._warned >= SAY_AGAIN_S:
            self._warned = now
            sys.stderr.write(clean(f"dispatcher: no answer at {self._url} yet: {reason}\n"))


def found_token(option: str | None, environment: Mapping[str, str]) -> tuple[Path | None, str]:
    """The token's file, or its text. Raises CommandError when there is none."""
    if option:
        return Path(option), ""
    if named := environment.get("AILURUS_TOKEN_FILE"):
        return Path(named), ""
    try:
        token = discovered(environment)
    except AilurusError as error:
        raise CommandError(
            CONFIGURATION,
            f"no token is named, and {error.message}",
            remedy="give --token-file FILE, or set AILURUS_TOKEN_FILE; `dispatcher init` made the first",
        ) from None
    return (Path(token.path) if token.path else None), token.text
