"""The link between a pilot and its agents: who is at its other end, and what came from there.

    agent → head    MAGIC, nonce
    head → agent    MAGIC, nonce, proof         both proofs are of the key and both nonces
    agent → head    proof
    then frames     length, MAC, MessagePack list of messages

Proofs and MACs are keyed BLAKE2b. The key is made for one allocation. Each direction has a key of
its own, derived from it and the nonces, and each frame's MAC covers its number: so nothing is taken
that was said on another connection, twice, out of order, or by anybody else. Until a proof is
right, a peer costs a socket and 104 bytes. What is said is authentic and not secret.

No I/O is here: bytes in, bytes out.
"""

from __future__ import annotations

import os

# hashlib and hmac, whose these are, load OpenSSL (decision 0526): a megabyte of each agent, and
# most of what a short frame's MAC would cost there.
from _blake2 import blake2b
from _operator import _compare_digest as equal
from collections.abc import Sequence
from typing import Any

from ailurus.protocol.errors import AilurusError
from pilot.process.frames import LONGEST, encode

MAGIC = b"ailurus2"
KEY_BYTES = 32
"""Of an allocation's key, of a nonce and of a proof."""
MAC_BYTES = 16
_HEAD = 4 + MAC_BYTES
_AGENT, _PILOT = b"agent", b"head"


class Stranger(AilurusError):
    """The other end does not have the key, or what came is not what it said."""


class Handshake:
    """One end's part in it. `greeting` is what it sends first."""

    def __init__(self, key: bytes, *, agent: bool, nonce: bytes = b"") -> None:
        """`nonce`: for tests; made at random."""
        self._key, self._agent = key, agent
        self._nonce = nonce or os.urandom(KEY_BYTES)
        self._buffer = bytearray()
        self._greeted = False
        self.greeting = MAGIC + self._nonce if agent else b""
        self.session: Session | None = None
        """Once the other end has proved that it has the key."""

    @property
    def missing(self) -> int:
        """How many bytes the other end still has to send in this step: no more are to be read."""
        return self._step() - len(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Take what came, at most `missing` bytes; returns what to send. Raises Stranger."""
        self._buffer += data
        if not MAGIC.startswith(self._buffer[: len(MAGIC)]) and not self._greeted:
            raise Stranger("it does not speak our protocol, or another version of it")
        if self.missing:
            return b""
        came, self._buffer = bytes(self._buffer), bytearray()
        if self._agent:
            theirs, proof = came[8 : 8 + KEY_BYTES], came[8 + KEY_BYTES :]
            self._check(proof, _PILOT, self._nonce + theirs)
            self.session = self._session(self._nonce + theirs)
            return self._made(_AGENT, self._nonce + theirs)
        if not self._greeted:
            self._greeted = True
            self._nonces = came[8:] + self._nonce
            return MAGIC + self._nonce + self._made(_PILOT, self._nonces)
        self._check(came, _AGENT, self._nonces)
        self.session = self._session(self._nonces)
        return b""

    def _step(self) -> int:
        if self._agent:
            return len(MAGIC) + 2 * KEY_BYTES
        return KEY_BYTES if self._greeted else len(MAGIC) + KEY_BYTES

    def _made(self, what: bytes, nonces: bytes) -> bytes:
        return blake2b(what + nonces, key=self._key, digest_size=KEY_BYTES).digest()

    def _check(self, proof: bytes, of: bytes, nonces: bytes) -> None:
        if not equal(proof, self._made(of, nonces)):
            raise Stranger("it does not have this allocation's key")

    def _session(self, nonces: bytes) -> Session:
        ours, theirs = (_AGENT, _PILOT) if self._agent else (_PILOT, _AGENT)
        return Session(self._made(b"from " + ours, nonces), self._made(b"from " + theirs, nonces))


def body_of(messages: Sequence[Any]) -> bytes:
    """What a frame says. Raises ValueError for what is too long to be taken."""
    body = encode(messages)
    if len(body) > LONGEST:
        raise ValueError(f"a frame of {len(body)} bytes")
    return body


class Session:
    """The frames of a connection, both ways. Sending and receiving may be in two threads."""

    def __init__(self, ours: bytes, theirs: bytes) -> None:
        self._ours, self._theirs = ours, theirs
        self._sent = self._received = 0
        self._buffer = bytearray()

    def frame(self, body: bytes) -> bytes:
        """A body's frame, to be sent after those made before."""
        head = len(body).to_bytes(4, "big")
        mac = _mac(self._ours, self._sent, head, body)
        self._sent += 1
        return head + mac + body

    def open(self, data: bytes) -> list[bytes]:
        """The bodies of the frames that are complete with `data`. Raises Stranger."""
        buffer = self._buffer
        buffer += data
        found = []
        while len(buffer) >= _HEAD:
            head = bytes(buffer[:4])
            end = _HEAD + int.from_bytes(head, "big")
            if end - _HEAD > LONGEST:
                raise Stranger(f"a frame of {end - _HEAD} bytes")
            if len(buffer) < end:
                break
            mac, body = bytes(buffer[4:_HEAD]), bytes(buffer[_HEAD:end])
            if not equal(mac, _mac(self._theirs, self._received, head, body)):
                raise Stranger("a frame that was changed, repeated or left out on the way")
            del buffer[:end]
            self._received += 1
            found.append(body)
        return found


def _mac(key: bytes, number: int, head: bytes, body: bytes) -> bytes:
    covered = number.to_bytes(8, "big") + head + body
    return blake2b(covered, key=key, digest_size=MAC_BYTES).digest()


def new_key() -> bytes:
    return os.urandom(KEY_BYTES)
