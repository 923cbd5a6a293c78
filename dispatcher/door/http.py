"""Requests and answers as bytes: read with a bound, decoded with the field named, never trusted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Raw, Struct

from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import Key
from ailurus.protocol.job import JobSpec
from ailurus.protocol.submission import explained
from dispatcher.refusal import Rejected

T = TypeVar("T")
Headers = Mapping[bytes, bytes]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
Body = bytes | bytearray | mmap

MIB = 1024 * 1024
LONGEST_BODY = MIB
BODIES = {
    "sign_in": 16 * 1024,
    "sign_out": 16 * 1024,
    "submit": 64 * MIB,
    "submit_task": 8 * MIB,
    "add_items": 4 * MIB,
    "exchange_items": 8 * MIB,
    "report": 8 * MIB,
    "log_pieces": 8 * MIB,
    "beat": 8 * MIB,
    "relay_tell": 32 * MIB,
    "relay_acquire": 8 * MIB,
    "relay_items": 8 * MIB,
}
# Bytes of a submission above which it is decoded in pieces, so that other requests get their turn.
BIG = 256 * 1024
# For a client to send a body.
BODY_S = 120.0
_PIECE = 128 * 1024
# Of a submission, see `Submit`.
MOST_JOBS = 100_000

# As msgspec says it.
_HALF = re.compile("surrogate pair|unexpected end of hex escape")
_HALF_LAST = re.compile(rb"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}\"[\]}\s]*\Z")
"""A body that ends after the first half of a pair: msgspec looks for the other one behind the end, and
says that the body was cut off."""

_encode = msgspec.json.Encoder().encode
JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")
_ONCE = frozenset({b"host", b"authorization", b"origin", b"content-type", b"content-length"})
_GUARDS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


async def answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole answer."""
    length = (b"content-length", b"%d" % len(body))
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, length, *_GUARDS]}
    )
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, content: object, *headers: tuple[bytes, bytes]) -> None:
    """Send `content` as JSON."""
    await answer(send, 200, _encode(content), JSON, *headers)


async def answer_problem(
    send: Send, error: Rejected, *headers: tuple[bytes, bytes], giver: str = ""
) -> None:
    """Send a refusal as an RFC 9457 problem. `giver`: our name, by which a client knows whose
    refusal it is."""
    problem = m.Problem(
        title=error.title,
        status=error.status,
        detail=error.detail,
        field=error.field,
        remedy=error.remedy,
        giver=giver if error.known else "",
    )
    if error.status == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    elif error.status == 503:
        headers = (*headers, (b"retry-after", b"1"))
    await answer(send, error.status, _encode(problem), _PROBLEM, *headers)


def check_twice(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Rejected where a header that decides something comes twice: whoever else read the
    request may have taken the other one."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _ONCE:
            raise Rejected(400, "given twice", field=name.decode("latin-1"))
        seen.add(name)


async def read_body(receive: Receive, headers: Headers, limit: int) -> Body:
    """The body of a request. Raises Rejected when it is too long, cut off or not JSON by its
    type."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind not in (b"application/json", b""):
        raise Rejected(415, "the body is not JSON", remedy="send Content-Type: application/json")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Rejected(415, "compressed bodies are not read", remedy="send it as it is")
    return await read_bytes(receive, headers, limit)


async def read_bytes(receive: Receive, headers: Headers, limit: int) -> Body:
    """The body of a request, whatever it is. Raises Rejected when it is too long or cut off."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > limit:
        raise _too_long(limit)
    message = await receive()
    first: bytes = message.get("body", b"")
    body: Body = first
    received = len(first)
    if message.get("more_body"):
        body, add = _space(int(length))
        most = len(body) or limit
        add(first)
        try:
            async with asyncio.timeout(BODY_S):
                while message.get("more_body"):
                    message = await receive()
                    piece = message.get("body", b"")
                    received += len(piece)
                    if received > most:
                        raise _too_long(limit)
                    add(piece)
        except TimeoutError:
            raise Rejected(408, f"the body took longer than {BODY_S:.0f} s") from None
    if message["type"] == "http.disconnect" or received < len(body):
        raise Rejected(400, "the request ended before its body did")
    if len(body) > limit:
        raise _too_long(limit)
    return body


def _space(length: int) -> tuple[bytearray | mmap, Callable[[bytes], object]]:
    """Where a body of this length is put together, and what adds a piece to it. A large body gets
    its memory page by page: a bytearray of ten megabytes that grows is sometimes copied, which
    takes 4 ms. Raises MemoryError."""
    if length <= BIG:
        body = bytearray()
        return body, body.extend
    try:
        pages = mmap(-1, length, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for a body of {length} bytes") from error
    return pages, pages.write


def _too_long(limit: int) -> Rejected:
    return Rejected(
        413, f"the body is longer than {limit} bytes", remedy="send it as several requests"
    )


class _Jobs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A submission with its jobs not read yet."""

    request_id: Key
    jobs: Annotated[tuple[Raw, ...], Meta(min_length=1, max_length=MOST_JOBS)]


_jobs = msgspec.json.Decoder(_Jobs)
_several = msgspec.json.Decoder(tuple[JobSpec, ...])
_key = msgspec.json.Decoder(Key)
_HEAD = re.compile(rb'\s*\{\s*"request_id"\s*:\s*("[^"\\]{1,200}")\s*,\s*"jobs"\s*:\s*\[\s*')
"""How a submission begins as our clients write it."""
# Places that are tried as the end of a part.
_CUTS = 8
_job = msgspec.json.Decoder(JobSpec)


async def decode_submission(body: Body) -> m.Submit:
    """A big submission, some jobs at a time with pauses: msgspec holds the interpreter while it
    decodes, so a thread would stop the event loop as long as decoding here in one go."""
    return await _in_parts(body) or await _one_by_one(body)


async def _in_parts(body: Body) -> m.Submit | None:
    """A submission as our clients write it, decoded part by part. None: it is written in another
    way, or there is something wrong with it, which `_one_by_one` names.

    What begins at a job and decodes as a list of jobs ends with a job: where that is, is guessed.
    """
    # An mmap would begin where it was written.
    head, end = _HEAD.match(body), body.rfind(b"]", 0)
    if head is None or end < head.end() or body[end + 1 :].strip() != b"}":
        return None
    specs: list[JobSpec] = []
    at = head.end()
    try:
        request_id = _key.decode(head[1])
        while at < end:
            part, at = _part(body, at, end)
            specs += part
            await asyncio.sleep(0)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not 0 < len(specs) <= MOST_JOBS:
        return None
    return m.Submit(request_id=request_id, jobs=tuple(specs))


def _part(body: Body, at: int, end: int) -> tuple[tuple[JobSpec, ...], int]:
    """The jobs of one part that begins at `at`, and where the next one begins. Raises
    DecodeError."""
    found = at + _PIECE
    for nr in range(_CUTS):
        found = body.find(b"},{", found, end) if found < end else -1
        stop = end if found < 0 or nr == _CUTS - 1 else found + 1
        try:
            return _several.decode(b"[%b]" % bytes(body[at:stop])), stop + 1
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if stop == end:
                raise
        found += 1
    raise AssertionError("the last part ends with the body")


async def _one_by_one(body: Body) -> m.Submit:
    """Any submission, decoded job after job; a fault names the field by its position. Raises
    Rejected."""
    outer = decode(_jobs.decode, body)
    specs: list[JobSpec] = []
    done = 0
    for nr, raw in enumerate(outer.jobs):
        specs.append(decode(_job.decode, raw, f"jobs[{nr}]"))
        done += len(memoryview(raw))
        if done > _PIECE:
            done = 0
            await asyncio.sleep(0)
    return m.Submit(request_id=outer.request_id, jobs=tuple(specs))


def decode(read: Callable[[Any], T], body: Any, where: str = "") -> T:
    """`read(body)`. Raises Rejected, which names the field that is wrong."""
    try:
        return read(body)
    except msgspec.ValidationError as error:
        raise refused(explained(error, where)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _HALF.search(str(error)) or _HALF_LAST.search(bytes(memoryview(body)[-20:])):
            raise Rejected(
                400,
                "half a surrogate pair is no character",
                field=where,
                detail="" if "truncated" in str(error) else str(error),
                remedy="write the character itself",
            ) from None
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Rejected(400, "the body is not JSON", field=where, detail=what) from None


def refused(error: AilurusError) -> Rejected:
    """A fault in a request, as the problem of the answer."""
    return Rejected(422, error.message, field=error.field, remedy=error.remedy)


def decode_query(kind: type[T], query: bytes | bytearray) -> T:
    """The query string as `kind`. Raises Rejected, also for a name twice and one that is not
    known."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50
        )
    except ValueError:
        raise Rejected(400, "the query string is malformed") from None
    given = dict(pairs)
    if len(given) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise Rejected(422, "given twice", field=twice[:200])
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(field.name for field in msgspec.structs.fields(kind))  # type: ignore[arg-type]
        fault = explained(error)
        remedy = f"known: {known or 'none'}" if "no such" in fault.message else fault.remedy
        raise Rejected(422, fault.message, field=fault.field, remedy=remedy) from None
