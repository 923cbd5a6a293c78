"""What a credential for storage says of itself: an X.509 proxy in PEM, a token (JWT), or keys of
S3. Nothing of it is verified: storage does that."""

from __future__ import annotations

import base64
import configparser
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.messages import CredentialKind

_LATEST = 253_402_300_800
"""Where the years have five digits, which nothing that shows a time knows."""
_FORMS = (
    "give a JWT, a proxy in PEM (its certificates and its private key), or keys of S3: [default], "
    "aws_access_key_id, aws_secret_access_key"
)


class Described(Struct, frozen=True):
    """A credential's own words. Times are seconds since the epoch."""

    kind: CredentialKind
    expires: float | None
    """None: it does not say."""
    subject: str
    since: float | None = None
    """When it was made; None: it does not say."""


def describe(text: str) -> Described:
    """What a credential is. Raises AilurusError for a text that is none, or that no pilot could
    write: its files are ASCII."""
    if not text.isascii():
        raise AilurusError("no credential (not ASCII)", field="secret", remedy=_FORMS)
    if "-----BEGIN" in text:
        return _read(_proxy, text, "proxy")
    if text.lstrip().startswith("["):
        return _read(_keys, text, "part of keys")
    return _read(_token, text, "token")


def _read(read: Callable[[str], Described], text: str, kind: str) -> Described:
    try:
        return read(text)
    # Parsers of certificates and keys have errors of their own, and deep JSON is a RecursionError.
    except Exception:  # noqa: BLE001
        # What the parsers say of it may quote what they read.
        what = f"no credential: there is no {kind} in it that can be read"
        raise AilurusError(what, field="secret", remedy=_FORMS) from None


def _token(text: str) -> Described:
    header, claims, _ = (
        base64.b64decode(part + "=" * (-len(part) % 4), altchars="-_", validate=True)
        for part in text.strip().split(".")
    )
    said = msgspec.json.decode(claims, type=dict[str, Any])
    if not isinstance(msgspec.json.decode(header, type=dict[str, Any]).get("alg"), str):
        raise TypeError("a header without an algorithm")
    expires, since = _time(said.get("exp")), _time(said.get("iat", said.get("nbf")))
    return Described(CredentialKind.TOKEN, expires, str(said.get("sub", ""))[:500], since)


def _time(told: Any) -> float | None:
    if told is None:
        return None
    if not 0 <= (time := float(told)) < _LATEST:
        raise ValueError("a time that is none")
    return time


def _proxy(text: str) -> Described:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain = x509.load_pem_x509_certificates(text.encode())
    key = load_pem_private_key(_key_of(text), password=None)
    if key.public_key() != chain[0].public_key():
        raise ValueError("the key is not the first certificate's")
    ends = min(one.not_valid_after_utc for one in chain).timestamp()
    subject = chain[0].subject.rfc4514_string()
    since = chain[0].not_valid_before_utc.timestamp()
    return Described(CredentialKind.PROXY, ends, subject[:500], since)


def _keys(text: str) -> Described:
    found = configparser.ConfigParser(interpolation=None)
    found.read_string(text)
    if not found["default"]["aws_secret_access_key"]:
        raise ValueError("no secret")
    return Described(CredentialKind.KEYS, None, found["default"]["aws_access_key_id"][:500])


def _key_of(text: str) -> bytes:
    """The part of a PEM file that is the private key."""
    lines = text.splitlines()
    begin = next((nr for nr, line in enumerate(lines) if "PRIVATE KEY-----" in line), None)
    if begin is None:
        raise ValueError("no private key")
    end = next((nr for nr in range(begin + 1, len(lines)) if "-----END" in lines[nr]), None)
    if end is None:
        raise ValueError("a private key without an end")
    return "\n".join(lines[begin : end + 1]).encode() + b"\n"
