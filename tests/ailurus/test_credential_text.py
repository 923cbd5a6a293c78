"""Texts that are nearly credentials are refused as such, whatever the parsers raise."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from ailurus import credential_text
from ailurus.protocol.errors import AilurusError


def _token(claims: bytes) -> str:
    head, body = (
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b'{"alg":"none"}', claims)
    )
    return f"{head}.{body}."


def test_an_end_that_no_float_holds_is_refused() -> None:
    with pytest.raises(AilurusError, match="no credential"):
        credential_text.describe(_token(b'{"exp":1' + b"0" * 400 + b"}"))


KEYS = "[default]\naws_access_key_id = AK1\naws_secret_access_key = s3cret%\n"


def test_keys_of_s3_are_known_by_their_form() -> None:
    found = credential_text.describe(KEYS)
    assert (found.kind, found.expires, found.subject) == ("keys", None, "AK1")


@pytest.mark.parametrize(
    "text", ["[", "[default]", KEYS.replace("s3cret%", ""), KEYS.replace("default", "other")]
)
def test_half_a_key_is_refused_and_not_shown(text) -> None:
    with pytest.raises(AilurusError, match="no credential: there is no part of keys") as raised:
        credential_text.describe(text)
    assert "AK1" not in str(raised.value)


def test_a_text_that_no_pilot_could_write_is_refused() -> None:
    good = _token(b'{"exp":1}')
    assert credential_text.describe(good).expires == 1
    with pytest.raises(AilurusError, match="not ASCII"):
        credential_text.describe(f"{good}\N{NO-BREAK SPACE}")


def test_a_key_that_was_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="without an end"):
        credential_text._key_of("-----BEGIN PRIVATE KEY-----\nMIGH\n")


@pytest.mark.parametrize("end", [b"NaN", b"Infinity", b"1e999", b"1e308", b"-1", b"253402300800"])
def test_an_end_that_is_no_time_is_refused(end: bytes) -> None:
    with pytest.raises(AilurusError, match="no credential"):
        credential_text.describe(_token(b'{"exp":' + end + b"}"))


@pytest.mark.parametrize("text", ["", "word", "a.b", "a.b.c", "e30.e30.x", "e30.e30.e30.e30"])
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(AilurusError, match="no credential: there is no token in it"):
        credential_text.describe(text)


@pytest.mark.parametrize("refusal", [UnsupportedAlgorithm("curve"), x509.InvalidVersion("62", 62)])
def test_whatever_a_parser_says_of_a_spoilt_proxy_it_is_refused(monkeypatch, refusal) -> None:
    def read(_: bytes) -> None:
        raise refusal

    monkeypatch.setattr(x509, "load_pem_x509_certificates", read)
    with pytest.raises(AilurusError, match="no credential"):
        credential_text.describe("-----BEGIN CERTIFICATE-----")


def test_deep_claims_are_refused() -> None:
    with pytest.raises(AilurusError, match="no credential"):
        credential_text.describe(_token(b'{"a":' + b"[" * 25_000 + b"]" * 25_000 + b"}"))


def test_a_token_says_when_it_was_made() -> None:
    found = credential_text.describe(_token(b'{"sub":"a","iat":100,"exp":200}'))
    assert (found.subject, found.since, found.expires) == ("a", 100, 200)
