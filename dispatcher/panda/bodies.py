"""Bytes to parameters and answers to bytes, as PanDA's servers do it.

What a body may cost is bounded before it is read: its bytes, packed or not, and the values in it,
for a byte of JSON may become a list of sixty. An anonymous client may send less. What is not small
is read beside the event loop.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct

from dispatcher.refusal import Rejected

# Bytes of a body, packed or not.
LONGEST = 8 * 1024 * 1024
# Values in the JSON of a body: five hundred of the longest updates.
VALUES = 100_000
# A client without a token may send this part of both.
ANONYMOUS_PART = 16
# Bytes that are read on the event loop.
SMALL = 64 * 1024
# Parameters of a body.
PARAMETERS = 1000
# Bytes of the head of a part of a form.
LONGEST_HEAD = 4096
JSON = "application/json"
TEXT = "text/plain"
HTML = "text/html"
_GZIP = b"\x1f\x8b"
_SURROGATE = re.compile("[\ud800-\udfff]")
Headers = Mapping[bytes, bytes]


class Upload(Struct, frozen=True):
    """A file of a form by parts."""

    name: str
    data: bytes


class BadBody(Exception):
    """A body that cannot be read: PanDA answers 500 with the reason as text."""


class NotGzip(BadBody):
    """Bytes that are not gzip's where they must be. A legacy server ends its process over it, so
    that it is Apache which answers."""


def kind(headers: Headers) -> str:
    """The content type, without parameters."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")


def wants_json(headers: Headers) -> bool:
    """Whether the client said that it reads JSON."""
    return JSON in headers.get(b"accept", b"").decode("latin-1").lower()


def longest(*, known: bool) -> int:
    """How many bytes a body may have, packed or not."""
    return LONGEST if known else LONGEST // ANONYMOUS_PART


async def read(
    method: str, headers: Headers, query: bytes, body: bytes, *, packed: bool, known: bool
) -> dict[str, Any]:
    """`parameters`, beside the event loop where that may take long; less from a caller not
    `known`."""
    small = len(body) <= SMALL and not (body[:2] == _GZIP and _grows(body))
    if small or method == "GET":
        return parameters(method, headers, query, body, packed=packed, known=known)
    return await asyncio.to_thread(
        parameters, method, headers, query, body, packed=packed, known=known
    )


def _grows(body: bytes) -> bool:
    """Whether packed data is more than small."""
    engine = zlib.decompressobj(wbits=31)
    try:
        engine.decompress(body, SMALL)
    except zlib.error:
        return False
    return bool(engine.unconsumed_tail)


def parameters(
    method: str,
    headers: Headers,
    query: bytes,
    body: bytes,
    *,
    packed: bool = False,
    known: bool = True,
) -> dict[str, Any]:
    """The arguments of a request: the query of a GET, a form, or a JSON object.

    Pilot 3 packs JSON without a header: packed bytes are known by how they begin. `packed`: JSON
    must be packed, as legacy servers have it. Raises BadBody and Rejected.
    """
    if method == "GET":
        # A head is short: see ailurus/server.py.
        return form(query, most=None)
    given = kind(headers)
    if body[:2] == _GZIP:
        body = unzipped(body, longest(known=known))
    elif packed and body and given == JSON:
        raise NotGzip(f"Not a gzipped file ({body[:2]!r})")
    if given == JSON:
        check_values(body, VALUES if known else VALUES // ANONYMOUS_PART)
        return _json(body)
    if given == "multipart/form-data":
        return _multipart(headers[b"content-type"], body)
    return form(body, most=PARAMETERS)


def check_values(body: bytes, most: int = VALUES) -> None:
    """Raise Rejected for JSON of more values than that; what stands in texts is none."""
    if _marks(body) <= most:
        return
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') <= 4 * most and _marks(b"".join(bare.split(b'"')[::2])) <= most:
        return
    raise Rejected(413, f"the body has more than {most} values", remedy="send several requests")


def _marks(text: bytes) -> int:
    """At least as many as there are values in it."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def within(text: str) -> Any:
    """The value of JSON text among the parameters. Raises ValueError, RecursionError, Rejected."""
    check_values(text.encode("utf-8", "surrogatepass"))
    return json.loads(text)


def unzipped(data: bytes, most: int = LONGEST) -> bytes:
    """The content of gzip'd data. Raises BadBody, and Rejected when it is more than `most`
    bytes."""
    engine = zlib.decompressobj(wbits=31)
    try:
        plain = engine.decompress(data, most)
    except zlib.error as error:
        raise BadBody(f"Not a gzipped file: {error}") from None
    if engine.unconsumed_tail:
        raise Rejected(413, f"the body unpacks to more than {most} bytes")
    if not engine.eof:
        raise BadBody("Compressed file ended before the end-of-stream marker was reached")
    return plain


def form(data: bytes, most: int | None) -> dict[str, Any]:
    """A form or a query; a name that comes again makes a list. Raises BadBody."""
    try:
        pairs = parse_qsl(
            data.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=most
        )
    except ValueError as error:
        raise BadBody(str(error)) from None
    given: dict[str, Any] = {}
    for name, value in pairs:
        if name not in given:
            given[name] = value
        elif isinstance(given[name], list):
            given[name].append(value)
        else:
            given[name] = [given[name], value]
    return given


def _json(body: bytes) -> dict[str, Any]:
    try:
        # The usual body is plain: nothing in it could be half a surrogate pair, nor another
        # encoding.
        plain = body.isascii() and b"\\u" not in body and b"\0" not in body
        given = json.loads(body.decode() if plain else body)
        whole = plain or not _SURROGATE.search(json.dumps(given, ensure_ascii=False))
    # With the text of the standard library, as PanDA has it.
    except (ValueError, RecursionError) as error:
        raise BadBody(f"ERROR : received invalid JSON : {error}") from None
    if not isinstance(given, dict):
        raise BadBody("ERROR : received invalid JSON : the body is no object")
    if not whole:
        raise BadBody("ERROR : received invalid JSON : half a surrogate pair is no text")
    return given


def _multipart(header: bytes, body: bytes) -> dict[str, Any]:
    """A form by parts, as `curl -F` sends it. Files are read as their bytes.

    Only heads go through the parser of mail: it takes seconds for the lines of a large body.
    """
    boundary = _head(
        b"content-type: " + header.replace(b"\r", b"").replace(b"\n", b"")
    ).get_boundary()
    if not boundary:
        return {}
    edge = b"\r\n--" + boundary.encode("latin-1", "replace")
    given: dict[str, Any] = {}
    for piece in (b"\r\n" + body).split(edge, PARAMETERS + 1)[1 : PARAMETERS + 1]:
        if piece.startswith(b"--"):
            break
        head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        part = _head(head[:LONGEST_HEAD])
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str):
            filename = part.get_filename()
            text = data.decode("utf-8", "replace")
            given[name] = text if filename is None else Upload(filename, data)
    return given


def _head(lines: bytes) -> Message:
    return BytesParser(policy=HTTP).parsebytes(lines + b"\r\n\r\n", headersonly=True)


def legacy(answer: Mapping[str, Any], headers: Headers) -> tuple[bytes, str]:
    """A legacy answer: JSON for a client that reads it, else `k=v&k=v`. No newline: Pilot 3 looks
    at both ends."""
    if wants_json(headers):
        return json.dumps(answer).encode(), JSON
    return urlencode({name: str(value) for name, value in answer.items()}).encode(), TEXT


def v1(answer: Mapping[str, Any], headers: Headers) -> bytes:
    """A v1 answer: JSON for a client that reads or sends JSON, else as Python shows it. Its content
    type is always text."""
    if wants_json(headers) or kind(headers) == JSON:
        return json.dumps(answer).encode()
    return str(dict(answer)).encode()
