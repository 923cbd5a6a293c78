"""Finds the dialect of a server where no option names it."""

from __future__ import annotations

import re
from typing import Literal

from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Client
from ailurus.wire.credentials import Trust
from ailurus.wire.retry import Patience

Dialect = Literal["native", "v1", "legacy"]
_SIGNS: tuple[tuple[Dialect, str, bytes], ...] = (
    ("native", "/healthz", rb'\s*\{.*"ok"'),
    ("v1", "/api/v1/system/is_alive", rb'\s*\{.*"success"'),
    ("legacy", "/server/panda/isAlive", rb"\s*alive"),
)


def detect_dialect(url: str, trust: Trust | None = None) -> Dialect:
    """The dialect of the server at `url`, ours before v1. Native if none answers: its client
    reports that."""
    client = Client(url, None, patience=Patience(total_s=0.0), trust=trust)
    for dialect, path, sign in _SIGNS:
        try:
            status, body = client.request("GET", path)
        except AilurusError:
            return "native"
        if status == 200 and re.match(sign, body, re.DOTALL):
            return dialect
    return "native"
