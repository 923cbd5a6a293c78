"""Ports of loopback for programs that must know theirs before they start."""

from __future__ import annotations

import contextlib
import socket
from random import SystemRandom

_CHANCE = SystemRandom()


def free_port() -> int:
    """A port on which nobody listens now, below those that the kernel gives to whoever asks for
    any: they would get it between now and the start of its program."""
    while True:
        port = _CHANCE.randrange(12000, 20000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
