"""The door over HTTP, as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from harvester_edge.relay.door import BY_PATH, LONGEST, Door
from harvester_edge.relay.state import Refusal

# To send a body.
BODY_S = 120.0

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


def application(door: Door) -> Application:
    """What a server calls for each request."""

    async def serve(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        name = BY_PATH.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            if name is None:
                raise Refusal(404, "a relay knows what pilots ask, and no more")
            headers = dict(scope["headers"])
            kind, _, token = headers.get(b"authorization", b"").partition(b" ")
            shown = token.decode("latin-1") if kind.lower() == b"bearer" else ""
            door.admit(name, shown)
            body = await _body(receive, headers)
        except Refusal as refusal:
            await _say(send, *door.refusal(refusal))
        else:
            await _say(send, *await door.answer(name, shown, body))

    return serve


async def _body(receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    """The body of a request. Raises Refusal when it is too long or too slow."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > LONGEST:
        raise Refusal(413, f"more than {LONGEST} bytes")
    text = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                text += message.get("body", b"")
                if len(text) > LONGEST:
                    raise Refusal(413, f"more than {LONGEST} bytes")
                if not message.get("more_body"):
                    return bytes(text) or b"{}"
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {BODY_S:.0f} s") from None


async def _say(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
