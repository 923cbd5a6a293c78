"""Frames: what goes over the sockets between the pilot, its guardian and its movers.

A frame is four bytes of length and a MessagePack list of messages.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

SOCKET = 3
"""The descriptor that a program started with a socket finds it at."""
LONGEST = 64 << 20
"""Bytes of a frame; a longer one is nonsense."""
READ_BYTES = 1 << 16
"""At once. The C library maps memory of its own for more than twice as much, each time."""
MOST_FDS = 250
"""How many descriptors may go with one frame; the kernel takes 253."""
_ANCILLARY = socket.CMSG_SPACE(4 * MOST_FDS)

encode = msgspec.msgpack.Encoder().encode


def frame(messages: Sequence[Any]) -> bytes:
    """The frame of these messages; several, where one would be too long. Raises ValueError for a
    message that is too long by itself."""
    body = encode(messages)
    if len(body) <= LONGEST:
        return struct.pack("!I", len(body)) + body
    if len(messages) == 1:
        raise ValueError(f"a message of {len(body)} bytes")
    half = len(messages) // 2
    return frame(messages[:half]) + frame(messages[half:])


def frames(buffer: bytearray) -> list[bytes]:
    """Take the whole frames off the front of `buffer`. Raises ValueError for a length that no frame
    has."""
    found = []
    while len(buffer) >= 4:
        length = int.from_bytes(buffer[:4], "big")
        if length > LONGEST:
            raise ValueError(f"a frame of {length} bytes")
        if len(buffer) < 4 + length:
            break
        found.append(bytes(buffer[4 : 4 + length]))
        del buffer[: 4 + length]
    return found


def receive(link: socket.socket, most: int = READ_BYTES) -> tuple[bytes, list[int]]:
    """Bytes, none at the end, and the descriptors that came with them, which no program started
    from here inherits."""
    data, ancillary, _, _ = link.recvmsg(most, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            count = len(payload) // 4
            fds += struct.unpack(f"{count}i", payload[: 4 * count])
    return data, fds


def send(link: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send all of `data`; copies of `fds` come with its first bytes. Raises OSError."""
    sent = 0
    if fds:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))
        sent = link.sendmsg([data], [rights])
    if sent < len(data):
        link.sendall(memoryview(data)[sent:])
