"""Describes an answer that a proxy or another server sent instead of the dispatcher."""

from __future__ import annotations

import html
import re
from http import HTTPStatus

from ailurus.protocol.messages import Problem

# Characters shown of a page's title or of a plain text.
SHOWN = 120
# Bytes read of a body.
LOOKED = 20_000
_PAGE = re.compile(r"\s*<|.*<html", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>([^<]*)<", re.IGNORECASE)
_REMEDIES = {
    401: "something in front of the dispatcher wants a password of its own: let it pass /api",
    403: "something in front of the dispatcher forbids this: look at its rules",
    404: "is this address an Ailurus dispatcher?",
    405: "is this address an Ailurus dispatcher?",
    413: "something in front of the dispatcher limits bodies: raise it (nginx: client_max_body_size), "
    "or send less at once",
    414: "something in front of the dispatcher limits addresses: raise it",
    429: "something in front of the dispatcher limits requests: ask less often",
    502: "the proxy is there and no dispatcher behind it: does that run?",
    503: "the proxy is there and no dispatcher behind it: does that run?",
    504: "the dispatcher did not answer its proxy in time: raise the proxy's limit (nginx: proxy_read_timeout)",
}


def problem(status: int, body: bytes) -> Problem:
    """An answer of another server as a problem; its `status` is left open."""
    try:
        name = f" {HTTPStatus(status).phrase}"
    except ValueError:
        name = ""
    quoted = words(body)
    return Problem(
        title=f"HTTP {status}{name}",
        status=0,
        detail=f"not from a dispatcher; it says «{quoted}»" if quoted else "not from a dispatcher",
        remedy=_REMEDIES.get(status, "is this address an Ailurus dispatcher?"),
    )


def words(body: bytes) -> str:
    """A body in one line: the title of a page, else the first line of a text; empty for binary
    data."""
    text = body[:LOOKED].decode("utf-8", "replace")
    if _PAGE.match(text):
        found = _TITLE.search(text)
        text = html.unescape(found[1]) if found else ""
    line = next((line for line in text.splitlines() if line.strip()), "")
    plain = "".join(c for c in " ".join(line.split()) if c.isprintable() and c != "\ufffd")
    return plain if len(plain) <= SHOWN else f"{plain[: SHOWN - 1]}…"
