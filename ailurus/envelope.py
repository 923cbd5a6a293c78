"""A text that one reader alone can open, for a way on which others store and forward what passes.

A sealed box of libsodium (X25519, XSalsa20-Poly1305), by PyNaCl (decision 0395). It keeps a text
secret from whoever reads along, not from one who can put a key of their own in the place of the
reader's; and it does not tell who sealed it.

PyNaCl is imported where it is first needed: few jobs name credentials, and each pilot would pay
3 ms and 1.2 MB for it.
"""

from __future__ import annotations

import base64

import msgspec

_decode = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class Reader:
    """Who may open what is sealed for `public`; its own key stays in this object."""

    def __init__(self) -> None:
        from nacl.public import PrivateKey

        self._secret = PrivateKey.generate()
        self.public = base64.b64encode(bytes(self._secret.public_key)).decode()
        """What a sender needs."""

    def open(self, sealed: str, bound: str) -> bytes:
        """The text. `bound`: what it was sealed with. Raises ValueError for anything that was not
        sealed for this reader and with that, or was changed."""
        from nacl.exceptions import CryptoError
        from nacl.public import SealedBox

        whole = base64.b64decode(sealed, validate=True)
        try:
            was_bound, text = _decode(SealedBox(self._secret).decrypt(whole))
        except (CryptoError, msgspec.MsgspecError):
            raise ValueError("not sealed for this reader, or changed on the way") from None
        if was_bound != bound:
            raise ValueError("sealed for something else")
        return text


def seal(text: bytes, public: str, bound: str) -> str:
    """Seal a text for the reader with this public key, together with what it is for (`bound`).
    Raises ValueError for what is no such key."""
    from nacl.exceptions import CryptoError
    from nacl.public import PublicKey, SealedBox

    key = base64.b64decode(public, validate=True)
    try:
        whole = SealedBox(PublicKey(key)).encrypt(msgspec.msgpack.encode((bound, text)))
    except CryptoError:
        raise ValueError("no key of X25519") from None
    return base64.b64encode(whole).decode()
