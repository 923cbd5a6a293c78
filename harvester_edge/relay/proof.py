"""How the relay knows a bootstrap token while the dispatcher is away: the edge has noted its sum.

The note lies in the directory of the worker that the token is of; the token itself says which that
is, and is believed only if the sums agree.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from pathlib import Path

import msgspec
from msgspec import Struct

NOTE = "proof"
_TAG = re.compile(r"[a-z0-9]{1,32}")


class Planned(Struct, frozen=True):
    """Which planned worker a bootstrap token is of."""

    intent: str
    index: int


class _Claims(Struct, frozen=True):
    exp: int
    intent: str = ""
    index: int = 0


def sum_of(token: str) -> bytes:
    """What the edge notes."""
    return hashlib.sha256(token.encode()).hexdigest().encode()


def planned(places: Path, token: str) -> Planned | None:
    """Which worker below `places` a token is of; None: of none, or no more."""
    try:
        claims = msgspec.json.decode(_decoded(token.split(".")[1]), type=_Claims)
    except (IndexError, ValueError, msgspec.MsgspecError):
        return None
    if not _TAG.fullmatch(claims.intent) or claims.index < 0 or claims.exp < time.time():
        return None
    try:
        known = (places / claims.intent / str(claims.index) / NOTE).read_bytes()
    except OSError:
        return None
    if not hmac.compare_digest(known, sum_of(token)):
        return None
    return Planned(claims.intent, claims.index)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
