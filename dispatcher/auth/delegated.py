"""Credentials that users delegate to their jobs: how they are kept.

They are sealed with AES-256-GCM under a key derived from the dispatcher's secret, which no store
holds. Owner and name are sealed with them, so no row can be put in the place of another's.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

_NONCE_BYTES = 12


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
