"""What a process writes reaches its reader; its end is told even where nobody reads any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ailurus.logs import Log
from ailurus.loops import Loops
from pilot.node.streams import Channel, Streams
from pilot.node_ports import WINDOW


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    return Streams(tmp_path / "streams", Loops(Log("tests")))


@contextmanager
def writer(channel: Channel) -> Iterator[int]:
    fd = os.open(channel.paths[1], os.O_WRONLY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def test_no_more_is_read_than_its_reader_gives_credit_for(streams: Streams) -> None:
    told, full = bytearray(), threading.Event()

    def output(stream: int, data: bytes) -> None:
        told.extend(data)
        if len(told) >= WINDOW:
            full.set()

    channel = streams.open(output)
    with writer(channel) as fd:
        os.set_blocking(fd, True)
        os.write(fd, b"x" * WINDOW)
        assert full.wait(10)
        os.write(fd, b"y" * WINDOW)
        channel.give(1)
        seen = threading.Event()
        streams.do(lambda: streams.do(seen.set))
        assert seen.wait(10)
        assert len(told) <= WINDOW + 1


def test_what_it_wrote_last_is_told_though_nobody_takes_it_any_more(streams: Streams) -> None:
    """As when a pilot-rsh was killed with output on its way: otherwise its job would never end."""
    told, full, over = bytearray(), threading.Event(), threading.Event()

    def output(stream: int, data: bytes) -> None:
        told.extend(data)
        if len(told) >= WINDOW:
            full.set()

    channel = streams.open(output)
    with writer(channel) as fd:
        os.set_blocking(fd, True)
        os.write(fd, b"x" * WINDOW)
        assert full.wait(10)
        os.write(fd, b"y" * 1000)
    channel.finish(over.set)
    assert over.wait(10)
    assert bytes(told) == b"x" * WINDOW + b"y" * 1000
