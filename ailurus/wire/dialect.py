"""Which dialect a server speaks: asked once, where nobody said."""

from __future__ import annotations

import re
from typing import Literal

from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Client, Trust
from ailurus.wire.retry import Patience

Dialect = Literal["native", "v1", "legacy"]
_SIGNS: tuple[tuple[Dialect, str, bytes], ...] = (
    ("native", "/healthz", rb'\s*\{.*"ok"'),
    ("v1", "/api/v1/system/is_alive", rb'\s*\{.*"success"'),
    ("legacy", "/server/panda/isAlive", rb"\s*alive"),
)


def detect_dialect(url: str, trust: Trust | None = None) -> Dialect:
    """What the server at `url` speaks: ours if it can, then v1. Nobody there: ours, which will say so."""
    client = Client(url, None, patience=Patience(total_s=0.0), trust=trust)
    for dialect, path, sign in _SIGNS:
        try:
            status, body = client.request("GET", path)
        except AilurusError:
            return "native"
        if status == 200 and re.match(sign, body, re.DOTALL):
            return dialect
    return "native"
