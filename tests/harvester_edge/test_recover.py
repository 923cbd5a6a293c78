"""Reports of dead pilots are sent by the edge, as often as it takes to begin."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harvester_edge import recover as subject
from harvester_edge.edge import FIRST_RETRY_S
from harvester_edge.launch import spool_directory


@pytest.fixture
def owing(world):
    """A site whose spool has a dead pilot's journal."""
    spool = spool_directory(world.edge.site)
    spool.mkdir(parents=True)
    (spool / "dead.journal").touch()
    return world


def recover(world) -> None:
    subject.recover(world.edge, (), dispatcher_answers=True)


def no_process(*args: object, **more: object) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def no_room(site: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("where", "name", "fails"),
    [(subprocess, "Popen", no_process), (subject, "write_site_file", no_room)],
    ids=["no process", "no room for the site file"],
)
def test_a_recovery_that_cannot_begin_is_tried_again(owing, monkeypatch, where, name, fails):
    monkeypatch.setattr(where, name, fails)
    recover(owing)
    assert owing.edge.recovery.due_at == owing.clock() + FIRST_RETRY_S
    monkeypatch.undo()
    recover(owing)
    assert owing.edge.recovery.process is None
    owing.clock.forward(FIRST_RETRY_S)
    recover(owing)
    assert owing.edge.recovery.process.wait(timeout=20) == 0


def test_a_failure_whose_log_is_gone_is_tried_again(owing):
    owing.edge.recovery.process = subprocess.Popen(["/bin/false"])
    owing.edge.recovery.process.wait(timeout=20)
    Path(owing.edge.state, "recover.log").unlink(missing_ok=True)
    recover(owing)
    assert owing.edge.recovery.due_at == owing.clock() + FIRST_RETRY_S
