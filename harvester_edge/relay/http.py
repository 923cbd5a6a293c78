"""The door over HTTP, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ailurus.protocol import messages as m
from harvester_edge.relay.door import BY_PATH, LONGEST, Door

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


def application(door: Door) -> Application:
    """What a server calls for each request."""

    async def serve(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        name = BY_PATH.get(scope["path"]) if scope["method"] == "POST" else None
        if name is None:
            await _say(send, 404, _problem(404, "a relay knows what pilots ask, and no more"))
        elif (body := await _body(receive)) is None:
            await _say(send, 413, _problem(413, f"more than {LONGEST} bytes"))
        else:
            kind, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            shown = token.decode("latin-1") if kind.lower() == b"bearer" else ""
            await _say(send, *await door.answer(name, shown, body))

    return serve


async def _body(receive: Receive) -> bytes | None:
    text = b""
    while True:
        message = await receive()
        text += message.get("body", b"")
        if len(text) > LONGEST:
            return None
        if not message.get("more_body"):
            return text or b"{}"


async def _say(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _problem(status: int, title: str) -> bytes:
    return msgspec.json.encode(m.Problem(title=title, status=status))
