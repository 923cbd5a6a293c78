"""Files as answers: a browser saves them, and neither shows nor runs them."""

from __future__ import annotations

import re
from contextlib import aclosing

from dispatcher.door.http import Send
from dispatcher.ports import Handed

_PLAIN = re.compile(r"[^A-Za-z0-9_.+@=-]")
_GUARDS = [
    (b"content-type", b"application/octet-stream"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


def saved_as(name: str) -> str:
    """What a browser shall call a file: the last of its name, in plain letters, and never
    hidden."""
    return _PLAIN.sub("_", name.rsplit("/", 1)[-1]).lstrip(".") or "file"


class Sent:
    """A file as an answer, and how many bytes of it went."""

    def __init__(self, handed: Handed) -> None:
        self._handed, self.bytes = handed, 0

    async def to(self, send: Send) -> None:
        """Send it. One that breaks off is never ended, so that no client takes it for whole."""
        handed = self._handed
        disposition = f'attachment; filename="{saved_as(handed.name)}"'.encode()
        headers = [*_GUARDS, (b"content-disposition", disposition)]
        if handed.size is not None:
            headers.append((b"content-length", b"%d" % handed.size))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(handed.pieces) as pieces:
            async for piece in pieces:
                self.bytes += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        if handed.size in (None, self.bytes):
            await send({"type": "http.response.body", "body": b""})
