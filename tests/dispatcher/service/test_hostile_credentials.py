"""Texts that are nearly credentials are refused as such, whatever the parsers raise."""

from __future__ import annotations

import base64

import pytest

from ailurus.protocol.errors import AilurusError
from dispatcher.auth import delegated


def _token(claims: bytes) -> str:
    head, body = (
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b'{"alg":"none"}', claims)
    )
    return f"{head}.{body}."


def test_an_end_that_no_float_holds_is_refused() -> None:
    with pytest.raises(AilurusError, match="no credential"):
        delegated.describe(_token(b'{"exp":1' + b"0" * 400 + b"}"))


def test_a_text_that_no_pilot_could_write_is_refused() -> None:
    good = _token(b'{"exp":1}')
    assert delegated.describe(good).expires == 1
    with pytest.raises(AilurusError, match="not ASCII"):
        delegated.describe(f"{good}\N{NO-BREAK SPACE}")


def test_a_key_that_was_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="without an end"):
        delegated._key_of("-----BEGIN PRIVATE KEY-----\nMIGH\n")


@pytest.mark.parametrize("end", [b"NaN", b"Infinity", b"1e999"])
def test_an_end_that_is_no_time_is_refused(end: bytes) -> None:
    with pytest.raises(AilurusError, match="no credential"):
        delegated.describe(_token(b'{"exp":' + end + b"}"))
