"""What two ends of a connection say to each other, and in which order."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from pilot.agents import messages as a
from pilot.agents.link import Handshake, new_key
from pilot.agents.wire import MOST_WAITING, Wire

BULK, TIMES = 1 << 20, 40
HELD = 4 << 20
"""More than the kernel holds at both ends, with a frame that has begun."""


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    """A pilot's and an agent's."""
    key = new_key()
    agent, pilot = Handshake(key, agent=True), Handshake(key, agent=False)
    pilot.feed(agent.feed(pilot.feed(agent.greeting)))
    assert agent.session is not None
    assert pilot.session is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    made = Wire(one, pilot.session, lambda: None), Wire(other, agent.session, lambda: None)
    yield made
    for wire in made:
        wire.close()


def heard(wire: Wire, by: Wire, count: int) -> Iterator[Any]:
    """The next messages that come at one end, as the other sends what waits."""
    while count > 0:
        by.flush()
        bodies = wire.receive()
        assert bodies is not None
        for body in bodies:
            for message in msgspec.msgpack.decode(body):
                count -= 1
                yield message


def test_a_beat_overtakes_what_waits_and_all_comes_in_order(ends: tuple[Wire, Wire]) -> None:
    """Else a job's long words would end the lease of the node, and with it the others' payloads."""
    pilot, agent = ends
    for number in range(TIMES):
        pilot.send(a.Wrote(number, 1, bytes(BULK)))
    pilot.beat(a.Acknowledged(7))
    pilot.beat(a.Acknowledged(8))
    came = [(tag, number) for tag, number, *_ in heard(agent, pilot, TIMES + 2)]
    assert [number for tag, number in came if tag == "Wrote"] == [*range(TIMES)]
    beats = [place for place, (tag, _) in enumerate(came) if tag == "Acknowledged"]
    assert beats[1] == beats[0] + 1
    assert came[beats[0]] == ("Acknowledged", 7)
    assert beats[0] * BULK < HELD


def test_what_waits_is_counted_and_a_peer_that_takes_nothing_is_given_up(
    ends: tuple[Wire, Wire],
) -> None:
    pilot, _ = ends
    sent = 0
    while pilot.backlog <= MOST_WAITING:
        pilot.send(a.Wrote(1, 1, bytes(BULK)))
        sent += BULK
    assert sent - HELD < pilot.backlog <= MOST_WAITING + 2 * BULK
    with pytest.raises(OSError, match="Broken pipe"):
        pilot.flush()
    pilot.close()
    assert (pilot.waiting, pilot.backlog) == (False, 0)


def test_more_than_a_frame_has_is_refused_before_anything_is_sent(ends: tuple[Wire, Wire]) -> None:
    pilot, agent = ends
    with pytest.raises(ValueError, match="a frame of"):
        pilot.send(a.Wrote(1, 1, bytes(64 << 20)))
    pilot.send(a.Bye())
    assert [*heard(agent, pilot, 1)] == [["Bye"]]
