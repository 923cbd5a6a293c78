"""Credentials that users delegate to their jobs: what they are, and how they are kept.

They are sealed with AES-256-GCM under a key derived from the dispatcher's secret, which no store
holds. Owner and name are sealed with them, so no row can be put in the place of another's.
"""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.messages import CredentialKind

_NONCE_BYTES = 12
_FORMS = "give a JWT, or a proxy in PEM: its certificates and its private key"


class Described(Struct, frozen=True):
    """What a credential says of itself. Nothing of it is verified: storage does that."""

    kind: CredentialKind
    expires: float | None
    """Seconds since the epoch; None: it does not say."""
    subject: str


class Vault:
    """Seals and opens credentials."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher: Any = None

    def seal(self, owner: str, name: str, text: str) -> str:
        """A credential's text as it is stored."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._aead().encrypt(nonce, text.encode(), _bound(owner, name))
        return base64.b64encode(nonce + sealed).decode()

    def open(self, owner: str, name: str, sealed: str) -> str:
        """The text that was sealed. Raises ValueError for anything else than that: another owner's,
        another dispatcher's, or changed."""
        from cryptography.exceptions import InvalidTag

        whole = base64.b64decode(sealed, validate=True)
        try:
            text = self._aead().decrypt(
                whole[:_NONCE_BYTES], whole[_NONCE_BYTES:], _bound(owner, name)
            )
        except InvalidTag:
            raise ValueError("not sealed by this dispatcher for that owner and name") from None
        return bytes(text).decode()

    def _aead(self) -> Any:
        if self._cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF

            derived = HKDF(SHA256(), 32, salt=None, info=b"ailurus delegated credentials")
            self._cipher = AESGCM(derived.derive(self._secret))
        return self._cipher


def _bound(owner: str, name: str) -> bytes:
    return f"{owner}\0{name}".encode()


def describe(text: str) -> Described:
    """What a credential is. Raises AilurusError for a text that is none, or that no pilot could
    write: its files are ASCII."""
    if not text.isascii():
        raise AilurusError("no credential (not ASCII)", field="secret", remedy=_FORMS)
    if "-----BEGIN" in text:
        return _read(_proxy, text)
    return _read(_token, text)


def _read(read: Callable[[str], Described], text: str) -> Described:
    try:
        return read(text)
    except (ValueError, TypeError, OverflowError) as error:
        # The parsers' own messages may quote what they read.
        what = f"no credential ({type(error).__name__})"
        raise AilurusError(what, field="secret", remedy=_FORMS) from None


def _token(text: str) -> Described:
    import jwt

    try:
        claims = jwt.decode(text.strip(), options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise ValueError(type(error).__name__) from None
    expires = None if claims.get("exp") is None else float(claims["exp"])
    if expires is not None and not math.isfinite(expires):
        raise ValueError("an end that is no time")
    return Described(CredentialKind.TOKEN, expires, str(claims.get("sub", ""))[:500])


def _proxy(text: str) -> Described:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain = x509.load_pem_x509_certificates(text.encode())
    key = load_pem_private_key(_key_of(text), password=None)
    if key.public_key() != chain[0].public_key():
        raise ValueError("the key is not the first certificate's")
    ends = [_ends(certificate) for certificate in chain]
    subject = chain[0].subject.rfc4514_string()
    return Described(CredentialKind.PROXY, min(ends).timestamp(), subject[:500])


def _ends(certificate: Any) -> datetime:
    found: datetime = certificate.not_valid_after_utc
    return found


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
