"""Serves the console's files: all from memory, each with its hash as ETag, under a strict policy.

The pages hold no data: they call the public API like any other client. So nothing here needs a
token.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from msgspec import Struct

from dispatcher.door.http import Application, Receive, Send

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".json": b"application/json",
    ".LICENSE": b"text/plain; charset=utf-8",
}
IMPORTMAP_HERE = "<!-- importmap -->"


class File(Struct, frozen=True):
    """A file as it is sent."""

    body: bytes
    zipped: bytes
    headers: list[tuple[bytes, bytes]]
    etag: bytes


def importmap(static: Path = STATIC) -> str:
    """Where the bare names in our modules lead: the vendored files."""
    listed = json.loads((static / "vendor/vendor.json").read_text("utf-8"))
    imports = {module["name"]: f"./vendor/{module['file']}" for module in listed}
    return json.dumps({"imports": imports}, indent=1)


def policy(script: str) -> str:
    """Content-Security-Policy: our files and nothing else; `script` is the one inline script."""
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src 'self' 'sha256-{digest}'",
            "style-src 'self'",
            "img-src 'self' data:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            # No text becomes markup, even by mistake.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def load(static: Path = STATIC) -> dict[str, File]:
    """Every file of the console by its path under `/console/`."""
    names = importmap(static)
    guards = [
        (b"content-security-policy", policy(names).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
    files = {}
    for path in sorted(static.rglob("*")):
        if path.suffix not in TYPES:
            continue
        body = path.read_bytes()
        if path.name == "index.html":
            tag = f'<script type="importmap">{names}</script>'
            body = body.replace(IMPORTMAP_HERE.encode(), tag.encode())
        name = path.relative_to(static).as_posix()
        # Vendored files carry their version in the name. Ours do not: the browser asks each time
        # and is mostly answered 304, so an upgraded dispatcher never meets yesterday's pages.
        keep = b"max-age=31536000, immutable" if name.startswith("vendor/") else b"no-cache"
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'.encode()
        headers = [
            *guards,
            (b"content-type", TYPES[path.suffix]),
            (b"cache-control", keep),
            (b"etag", etag),
            (b"vary", b"accept-encoding"),
        ]
        files[name] = File(body, gzip.compress(body, 9, mtime=0), headers, etag)
    return files


def console(static: Path = STATIC) -> Application:
    """An ASGI application for `/` and `/console/…`; state of a page is in its fragment."""
    files = load(static)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        if path in ("", "console"):
            await _answer(send, 307, [(b"location", b"console/")])
            return
        file = files.get(path.removeprefix("console/") or "index.html")
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, [(b"allow", b"GET, HEAD")])
        elif file is None:
            await _answer(send, 404, [(b"content-type", b"text/plain")], b"no such page\n")
        else:
            headers = dict(scope["headers"])
            await _send_file(send, file, headers, head=scope["method"] == "HEAD")

    return app


async def _send_file(send: Send, file: File, request: dict[bytes, bytes], *, head: bool) -> None:
    if file.etag in request.get(b"if-none-match", b""):
        await _answer(send, 304, file.headers)
    elif b"gzip" in request.get(b"accept-encoding", b""):
        zipped = [*file.headers, (b"content-encoding", b"gzip")]
        await _answer(send, 200, zipped, file.zipped, head=head)
    else:
        await _answer(send, 200, file.headers, file.body, head=head)


async def _answer(
    send: Send,
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes = b"",
    *,
    head: bool = False,
) -> None:
    if status != 304:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
