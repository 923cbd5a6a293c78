"""A text that one reader alone can open, for a way on which others store and forward what passes.

The scheme is DHIES (Abdalla, Bellare and Rogaway, 2001): a key of the sender's made for this text,
a Diffie-Hellman exchange in the group ffdhe3072 of RFC 7919, SHAKE256 for the keys and the stream,
HMAC-SHA256 over what is sealed. It needs `pow` and `hashlib` alone, since a pilot has no library of
ciphers (decision 0395). It keeps a text secret from whoever reads along, not from one who can put
a key of their own in the place of the reader's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

# RFC 7919, appendix A.2; the order of the generator is (PRIME - 1) / 2.
PRIME = int(
    "ffffffffffffffffadf85458a2bb4a9aafdc5620273d3cf1d8b9c583ce2d3695"
    "a9e13641146433fbcc939dce249b3ef97d2fe363630c75d8f681b202aec4617a"
    "d3df1ed5d5fd65612433f51f5f066ed0856365553ded1af3b557135e7f57c935"
    "984f0c70e0e68b77e2a689daf3efe8721df158a136ade73530acca4f483a797a"
    "bc0ab182b324fb61d108a94bb2c8e3fbb96adab760d7f4681d4f42a3de394df4"
    "ae56ede76372bb190b07a7c8ee0a6d709e02fce1cdf7e2ecc03404cd28342f61"
    "9172fe9ce98583ff8e4f1232eef28183c3fe3b1b4c6fad733bb5fcbc2ec22005"
    "c58ef1837d1683b2c6f34a26c1b2effa886b4238611fcfdcde355b3b6519035b"
    "bc34f4def99c023861b46fc9d6e6c9077ad91d2691f7f7ee598cb0fac186d91c"
    "aefe130985139270b4130c93bc437944f4fd4452e2d74dd364f2e21e71f54bff"
    "5cae82ab9c9df69ee86d2bc522363a0dabc521979b0deada1dbf9a42d5c4484e"
    "0abcd06bfa53ddef3c1b20ee3fd59d7c25e41d2b66c62e37ffffffffffffffff",
    16,
)
GENERATOR = 2
_BYTES = 384
# Twice the strength of the group, as RFC 7919 asks at least.
_SECRET_BITS = 275
_KEY_BYTES = _MAC_BYTES = 32


class Reader:
    """Who may open what is sealed for `public`; its own key stays in this object."""

    def __init__(self) -> None:
        self._secret = secrets.randbits(_SECRET_BITS) | 1 << (_SECRET_BITS - 1)
        self._number = pow(GENERATOR, self._secret, PRIME)
        self.public = base64.b64encode(_bytes(self._number)).decode()
        """What a sender needs."""

    def open(self, sealed: str, bound: str) -> bytes:
        """The text. `bound`: what it was sealed with. Raises ValueError for anything that was not
        sealed for this reader and with that, or was changed."""
        whole = base64.b64decode(sealed, validate=True)
        number, mac, text = (
            whole[:_BYTES],
            whole[_BYTES : _BYTES + _MAC_BYTES],
            whole[_BYTES + _MAC_BYTES :],
        )
        sender = _number(number)
        key, mac_key = _keys(sender, self._number, pow(sender, self._secret, PRIME), bound)
        if not hmac.compare_digest(mac, hmac.digest(mac_key, text, "sha256")):
            raise ValueError("not sealed for this reader, or changed on the way")
        return _crypted(text, key)


def seal(text: bytes, public: str, bound: str) -> str:
    """Seal a text for the reader with this public key, some 10 ms of CPU. Raises ValueError for
    what is no such key."""
    reader = _number(base64.b64decode(public, validate=True))
    secret = secrets.randbits(_SECRET_BITS) | 1 << (_SECRET_BITS - 1)
    sender = pow(GENERATOR, secret, PRIME)
    key, mac_key = _keys(sender, reader, pow(reader, secret, PRIME), bound)
    sealed = _crypted(text, key)
    mac = hmac.digest(mac_key, sealed, "sha256")
    return base64.b64encode(_bytes(sender) + mac + sealed).decode()


def _number(text: bytes) -> int:
    """A public key. Those of which every exchange would give the same are refused."""
    number = int.from_bytes(text)
    if len(text) != _BYTES or not 1 < number < PRIME - 1:
        raise ValueError("no key of ffdhe3072")
    return number


def _bytes(number: int) -> bytes:
    return number.to_bytes(_BYTES)


def _keys(sender: int, reader: int, shared: int, bound: str) -> tuple[bytes, bytes]:
    """The keys of stream and MAC: of this exchange, between these two, for this purpose."""
    said = b"".join(map(_bytes, (sender, reader, shared))) + bound.encode()
    keys = hashlib.shake_256(b"ailurus envelope 1\0" + said).digest(2 * _KEY_BYTES)
    return keys[:_KEY_BYTES], keys[_KEY_BYTES:]


def _crypted(text: bytes, key: bytes) -> bytes:
    """The text, or what was made of it by the same key, which serves once."""
    stream = hashlib.shake_256(key).digest(len(text))
    return (int.from_bytes(text) ^ int.from_bytes(stream)).to_bytes(len(text))
