"""Agents are started where none is, by whoever the allocation says, and never by the loop that
hears them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pilot.agents.starting import FIRST_PAUSE_S, PATIENCE_S, Starting, agent_command
from pilot.node_ports import Starter
from pilot.ports import ProcessEnd, ProcessSpec


class Batch:
    """An allocation that starts agents by a command for all, and a spawner that starts nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], bool]] = []
        self.ends: list[Callable[[ProcessEnd], None]] = []

    def starters(
        self, argv: Sequence[str], nodes: Sequence[str], *, apart: bool = False
    ) -> Sequence[Starter]:
        self.asked.append(([*nodes], apart))
        groups = [[name] for name in nodes] if apart else [[*nodes]]
        return [Starter(argv=["run", *argv], environment={}, nodes=group) for group in groups]

    def spawn(self, order: ProcessSpec, done: Callable[[ProcessEnd], None]) -> int:
        self.ends.append(done)
        return len(self.ends)


class Rig:
    def __init__(self, directory: Path) -> None:
        self.batch, self.tasks = Batch(), list[Callable[[], None]]()
        self.key_file = directory / "agents.key"
        self.starting = Starting(
            self.batch,  # type: ignore[arg-type]
            self.batch,  # type: ignore[arg-type]
            ["agent"],
            self.key_file,
            b"\1" * 32,
            directory / "agents.log",
            self.tasks.append,
        )

    def look(self, *missing: str, now: float) -> int:
        """Look, and do what is to be done; how much that was."""
        self.starting.look(missing, now)
        tasks = self.tasks[:]
        self.tasks.clear()
        for task in tasks:
            task()
        return len(tasks)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_look_itself_asks_nobody_and_touches_no_file(rig: Rig) -> None:
    """The batch system may take seconds to answer, and a file system may hang: by then each agent
    would have killed what it runs."""
    rig.starting.look(["n1"], 0.0)
    assert not rig.batch.asked
    assert not rig.key_file.exists()
    assert rig.tasks


def test_the_key_lies_there_while_agents_are_awaited_and_for_their_user_alone(rig: Rig) -> None:
    rig.look("n1", "n2", now=0.0)
    assert rig.key_file.stat().st_mode & 0o777 == 0o600
    rig.look("n2", now=1.0)
    assert rig.key_file.exists()
    rig.look(now=2.0)
    assert not rig.key_file.exists()
    assert rig.look(now=3.0) == 0, "nothing is done once all are there"


def test_one_that_does_not_come_is_tried_again_by_itself(rig: Rig) -> None:
    rig.look("n1", "n2", now=0.0)
    rig.look("n1", "n2", now=PATIENCE_S - 1)
    rig.look("n1", "n2", now=PATIENCE_S)
    assert rig.batch.asked == [(["n1", "n2"], False), (["n1", "n2"], True)]


def test_one_that_is_lost_is_started_once_more_after_a_pause(rig: Rig) -> None:
    rig.look("n1", now=0.0)
    rig.look(now=10.0)
    rig.look("n1", now=20.0)
    assert len(rig.batch.asked) == 1
    rig.look("n1", now=20.0 + FIRST_PAUSE_S)
    assert len(rig.batch.asked) == 2
    assert rig.key_file.exists()


def test_when_its_starter_has_ended_an_agent_is_not_waited_for(rig: Rig) -> None:
    rig.look("n1", now=0.0)
    rig.batch.ends[0](ProcessEnd(key=1, exit_code=1))
    rig.look("n1", now=10.0)
    rig.look("n1", now=10.0 + 2 * FIRST_PAUSE_S)
    assert len(rig.batch.asked) == 2


def test_one_that_went_before_it_was_ready_is_started_after_a_pause(rig: Rig) -> None:
    rig.look("n1", "n2", now=0.0)
    rig.starting.gone("n2")
    rig.look("n1", "n2", now=1.0)
    rig.look("n1", "n2", now=1.0 + 2 * FIRST_PAUSE_S)
    assert rig.batch.asked[1:] == [(["n2"], True)]


def test_agents_of_an_unpacked_pilot_unpack_it_where_their_node_has_room():
    told = {"AILURUS_PILOT_FILE": "/shared/pilot", "AILURUS_PILOT_DIR": "/local"}
    agent = ["--agent", "--head", "10.0.0.1:9", "--key-file", "/key"]
    unpacking = ["/usr/bin/env", "AILURUS_PILOT_DIR=/local", "/shared/pilot"]
    assert agent_command("10.0.0.1:9", Path("/key"), "", told) == [*unpacking, *agent]
    here = agent_command("10.0.0.1:9", Path("/key"), "/scratch", {})
    assert here[-len(agent) - 2 :] == [*agent, "--workdir", "/scratch"]
    assert here[0] == sys.executable
