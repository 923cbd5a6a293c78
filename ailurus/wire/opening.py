"""How a connection for long transfers is opened: its waits, too, check all the time whether to go
on, so that a server that is silent, or drips, keeps nobody beyond the limit."""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from errno import EINPROGRESS

STEP_S = 0.5
"""How often what waits checks."""
_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextmanager
def watching(check: Callable[[], None]) -> Iterator[None]:
    """Let every wait on a connection of this thread call `check`; what it raises ends the
    transfer."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def check() -> None:
    """Raises what the check of this thread's transfer raises."""
    _check.get()()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """As `watching`, by the same check: the waits of the block end after `seconds`, too, by
    `TooLong`."""
    before, deadline = _check.get(), time.monotonic() + seconds

    def both() -> None:
        before()
        if time.monotonic() > deadline:
            raise TooLong

    with watching(both):
        yield


class TooLong(Exception):
    """The time of `at_most` is over."""


def connected(
    host: str, port: int, timeout_s: float | None, options: Sequence[tuple[int, int, int | bytes]]
) -> socket.socket:
    """A socket that is connected to the first address of `host` that answers, each within
    `timeout_s`. The look-up of its name is the system's, and nothing ends it. Raises OSError, and
    what the check raises."""
    failed: OSError = OSError("it has no address")
    for family, kind, number, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            made = socket.socket(family, kind, number)
        except OSError as error:
            # An address of a family that this machine does not have.
            failed = error
            continue
        try:
            for option in options:
                made.setsockopt(*option)
            _connect(made, address, timeout_s)
        except OSError as error:
            made.close()
            failed = error
        except BaseException:
            made.close()
            raise
        else:
            made.settimeout(timeout_s)
            return made
    raise failed


def _connect(sock: socket.socket, address: object, timeout_s: float | None) -> None:
    sock.setblocking(False)
    errno = sock.connect_ex(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
    began = time.monotonic()
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while errno == EINPROGRESS:
        check()
        if poll.poll(STEP_S * 1000):
            errno = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        elif timeout_s is not None and time.monotonic() - began > timeout_s:
            raise TimeoutError(f"no answer within {timeout_s:.0f} s")
    if errno:
        raise OSError(errno, os.strerror(errno))


def strict(context: ssl.SSLContext) -> None:
    """Let handshakes by a context check, and let no connection end unless its other side says so
    by TLS: who is on the way can cut it, but not say that, and a file whose length is not told
    would end there."""
    context.sslsocket_class = _Tls
    # Not there before OpenSSL 3, which needs no telling.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def was_cut(error: ssl.SSLError) -> bool:
    """Whether a connection ended without its other side saying so."""
    # Which of them it is depends on the version of Python.
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


class _Tls(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        """Within the time-out of the socket. Raises TimeoutError, ssl.SSLError, and what the check
        raises."""
        self.suppress_ragged_eofs = False
        timeout_s, began = self.gettimeout(), time.monotonic()
        self.settimeout(STEP_S)
        try:
            while not self._shook_hands(block):
                if timeout_s is not None and time.monotonic() - began > timeout_s:
                    raise TimeoutError(f"no handshake within {timeout_s:.0f} s")
        except BaseException:
            # Nobody else has it yet.
            self.close()
            raise
        self.settimeout(timeout_s)

    def _shook_hands(self, block: bool) -> bool:
        check()
        try:
            super().do_handshake(block)
        except TimeoutError:
            return False
        return True
