"""The pilot's end of the guardian's socket, whoever is at the other one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pilot.blame import GUARDIAN_DIED
from pilot.ports import ProcessEnd, ProcessSpec
from pilot.process import frames, guardian, kill, spawner
from pilot.process.orders import Signal, Spawn, Started
from pilot.process.spawner import GuardedSpawner
from tests.pilot.fakes import Any
from tests.pilot.helpers import guarded
from tests.rig.waiting import until

TRUE = ProcessSpec(argv=["true"])


@pytest.fixture
def ends() -> Iterator[tuple[GuardedSpawner, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield GuardedSpawner(ours, 2**22 + 1), theirs
    ours.close()
    theirs.close()


def read(theirs: socket.socket) -> list[Any]:
    """The messages that the guardian has got."""
    decode = guardian._messages.decode
    bodies = frames.frames(bytearray(theirs.recv(1 << 16)))
    return [message for body in bodies for message in decode(body)]


def test_a_start_is_asked_for_and_its_end_is_handed_out_once(ends):
    made, theirs = ends
    ended: list[ProcessEnd] = []
    key = made.spawn(TRUE, ended.append)
    (message,) = read(theirs)
    assert isinstance(message, Spawn)
    assert (message.key, message.argv) == (key, ["true"])
    theirs.sendall(frames.frame([Started(key, 77)]))
    assert made.turn()
    assert made.pid(key) == 77
    end = ProcessEnd(key=key, exit_code=3)
    theirs.sendall(frames.frame([end, end]))
    assert made.turn()
    assert ended == [end]
    assert made.pid(key) is None


def test_a_frame_may_come_in_pieces_and_several_together(ends):
    made, theirs = ends
    ended: list[ProcessEnd] = []
    keys = made.spawn_all([(TRUE, ended.append), (TRUE, ended.append)])
    data = b"".join(frames.frame([ProcessEnd(key=key)]) for key in keys)
    theirs.sendall(data[:7])
    made.turn()
    assert ended == []
    theirs.sendall(data[7:])
    made.turn()
    assert [end.key for end in ended] == keys


def test_a_signal_is_passed_on(ends):
    made, theirs = ends
    made.signal(5, 15)
    assert read(theirs) == [Signal(5, 15)]


def test_nothing_to_read_is_no_loss(ends):
    made, _ = ends
    assert made.turn(timeout_s=0)


def test_a_payload_that_a_dead_guardian_cannot_start_has_ended(ends):
    made, theirs = ends
    theirs.close()
    ended: list[ProcessEnd] = []
    made.spawn(TRUE, ended.append)
    assert [end.errno for end in ended] == [GUARDIAN_DIED]


def test_when_the_guardian_is_lost_its_children_are_killed_before_their_ends_are_told(
    ends, monkeypatch
):
    made, theirs = ends
    order: list[str] = []
    monkeypatch.setattr(kill, "kill_descendants", lambda pid: order.append("killed"))
    made.spawn(TRUE, lambda end: order.append(f"ended {end.errno}"))
    theirs.close()
    made.listen(lambda: order.append("lost"))
    assert order == ["killed", "lost", f"ended {GUARDIAN_DIED}"]


def test_a_guardian_that_ends_because_the_pilot_does_is_not_lost(ends):
    made, theirs = ends
    made.close()
    assert theirs.recv(1) == b""
    made.listen(lambda: pytest.fail("it was closed"))


def test_a_pilot_becomes_the_reaper_of_what_its_guardian_leaves(monkeypatch):
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(guardian, "start", lambda: (ours, os.getpid()))
    done: list[bool] = []
    monkeypatch.setattr(kill, "become_subreaper", lambda: done.append(True))
    assert spawner.start().guardian_pid == os.getpid()
    assert done
    ours.close()
    theirs.close()


def test_many_programs_with_long_words_may_start_at_once() -> None:
    """A guardian ends by a frame that is longer than any."""
    ends: list[ProcessEnd] = []
    long = ProcessSpec(argv=["/bin/true", *["x" * 130_000] * 14], environment={}, directory="/")
    with guarded() as spawner:
        spawner.spawn_all([(long, ends.append)] * 40)
        until(lambda: len(ends) == 40)
    assert {(end.exit_code, end.errno) for end in ends} == {(0, 0)}
