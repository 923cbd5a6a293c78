"""A wait on a connection ends with the check of who waits, and not before."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ailurus.wire import opening
from ailurus.wire.opening import TooLong, at_most, check, connected, watching


class Stop(Exception):
    """The job is to stop."""


def stops() -> None:
    raise Stop


@pytest.fixture
def full() -> Iterator[int]:
    """The port of a server on loopback that takes no connection any more."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        waiting = []
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.append(one)
        yield port
        for one in waiting:
            one.close()


def test_a_check_holds_for_its_block_and_its_thread_alone():
    seen: list[str] = []
    with watching(stops):
        with pytest.raises(Stop):
            check()
        other = threading.Thread(target=lambda: (check(), seen.append("none there")))
        other.start()
        other.join()
    check()
    assert seen == ["none there"]


def test_a_block_has_its_time_and_the_check_around_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with at_most(5):
        check()
        with at_most(60):
            now[0] = 4.0
            check()
            now[0] = 6.0
            with pytest.raises(TooLong):
                check()
    check()
    with watching(stops), at_most(5), pytest.raises(Stop):
        check()


def test_a_wait_for_a_connection_ends_with_its_check(full, monkeypatch):
    monkeypatch.setattr(opening, "STEP_S", 0.01)
    with at_most(0.05), pytest.raises(TooLong):
        connected("127.0.0.1", full, 30, ())
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        connected("127.0.0.1", full, 0.05, ())


def test_the_next_address_is_tried_where_one_does_not_answer(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        kind = socket.AF_INET, socket.SOCK_STREAM, 6, ""
        found = [(*kind, ("127.0.0.1", 1)), (*kind, ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with connected("two.example", port, 5, ()) as made:
            assert made.getpeername() == ("127.0.0.1", port)
            assert made.gettimeout() == 5
        found.pop()
        with pytest.raises(ConnectionRefusedError):
            connected("one.example", 1, 5, ())
