"""A big submission is decoded in parts, and means what it means in one piece."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from dispatcher.door import http
from dispatcher.refusal import Rejected

pytestmark = pytest.mark.field("A7", "A9")

texts = st.lists(
    st.sampled_from(["},{", "}]", "[{", '"', "\\", '\\"},{"name":"x"},{', "a", "é", "]}", "\n"]),
    max_size=6,
).map("".join)
jobs = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "c.d"])},
    optional={
        "script": texts,
        "command": texts,
        "inputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.just("f")}, optional={"url": st.just("http://h/{},{")}
            ),
            max_size=3,
        ),
        "environment": st.dictionaries(st.sampled_from(["A", "B"]), texts, max_size=2),
        "depends_on": st.lists(st.integers(1, 9), max_size=3),
    },
)
layouts = st.sampled_from(
    [{"separators": (",", ":")}, {}, {"indent": 1}, {"separators": (" , ", " : ")}]
)


@pytest.fixture(autouse=True)
def tiny_parts(monkeypatch):
    monkeypatch.setattr(http, "_PIECE", 40)


def decoded(body: bytes | bytearray) -> m.Submit | None:
    try:
        return asyncio.run(http.decode_submission(body))
    except Rejected:
        return None


def expected(body: bytes) -> m.Submit | None:
    try:
        return msgspec.json.decode(body, type=m.Submit)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@settings(max_examples=300)
@given(st.lists(jobs, max_size=12), layouts, st.booleans())
def test_the_parts_are_the_whole(wanted, layout, other):
    text = {"request_id": "r", "jobs": wanted} | ({"jobs2": []} if other else {})
    body = json.dumps(text, ensure_ascii=False, **layout).encode()
    assert decoded(body) == expected(body)
    assert decoded(bytearray(body)) == expected(body)


@settings(max_examples=300)
@given(st.lists(jobs, min_size=1, max_size=8), st.data())
def test_a_body_that_is_not_whole_is_refused_as_it_is_in_one_piece(wanted, data):
    body = json.dumps({"request_id": "r", "jobs": wanted}, separators=(",", ":")).encode()
    at = data.draw(st.integers(0, len(body)))
    put = data.draw(st.sampled_from([b"", b",", b"]", b"}", b'"', b"{", b"},{", b"\xff", b" "]))
    gone = data.draw(st.integers(0, 3))
    broken = body[:at] + put + body[at + gone :]
    assert decoded(broken) == expected(broken)


def test_what_our_client_sends_is_read_in_parts(monkeypatch):
    monkeypatch.setattr(http, "_PIECE", 2000)
    monkeypatch.setattr(http, "_one_by_one", None)
    seen = []
    whole = http._part
    monkeypatch.setattr(http, "_part", lambda *given: seen.append(given[1]) or whole(*given))
    ask = {"request_id": "r", "jobs": [{"name": f"j{nr}", "command": "true"} for nr in range(1000)]}
    body = msgspec.json.encode(ask)
    assert asyncio.run(http.decode_submission(body)) == expected(body)
    assert len(seen) > len(body) / 3000
