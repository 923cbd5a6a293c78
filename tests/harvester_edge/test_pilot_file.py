"""The pilot as a file, from the edge's disk to where nodes find it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import msgspec
import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.worker import Ending
from harvester_edge import act, pilot_file
from harvester_edge.launch import launch
from harvester_edge.site import PilotPart


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "built"
    made.write_bytes(b"#!/bin/sh\nexit 0\n")
    return made


def configure(world, **pilot) -> None:
    world.edge.site = msgspec.structs.replace(world.edge.site, pilot=PilotPart(**pilot))


def builds(world) -> list[str]:
    return sorted(one.name for one in (world.edge.state / "pilots").glob("*"))


def test_workers_start_a_copy_that_a_new_build_leaves_alone(world, file):
    configure(world, file=str(file))
    world.dispatcher.jobs = 1
    world.cycle()
    first = Path(launch(world.edge.site, "std", "T").program)
    assert str(first) in world.batch.orders[-1][1].script
    assert first.read_bytes() == file.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o755
    file.write_bytes(b"#!/bin/sh\nexit 1\n")
    world.dispatcher.jobs = 5
    world.cycle(2)
    second = Path(launch(world.edge.site, "std", "T").program)
    assert (first.read_bytes(), second.read_bytes()) == (
        b"#!/bin/sh\nexit 0\n",
        b"#!/bin/sh\nexit 1\n",
    )
    assert str(second) in world.batch.orders[-1][1].script


def test_a_build_goes_when_no_living_worker_starts_it(world, file):
    configure(world, file=str(file))
    world.dispatcher.jobs = 1
    world.cycle()
    ((tag, _),) = world.batch.orders
    (old,) = builds(world)
    file.write_bytes(b"#!/bin/sh\n# newer\n")
    pilot_file.hand_out(world.edge.site)
    act.tidy(world.edge)
    assert old in builds(world)
    assert len(builds(world)) == 2
    world.dispatcher.jobs = 0
    world.dispatcher.register(tag)
    world.cycle()
    world.batch.jobs.clear()
    world.dispatcher.end(tag, Ending.DONE)
    world.cycle(2)
    act.tidy(world.edge)
    assert builds(world) == [pilot_file.place(world.edge.site).parent.name]


def test_a_file_that_is_not_the_one_that_was_meant_is_submitted_nowhere(world, file):
    good = hashlib.sha256(file.read_bytes()).hexdigest()
    configure(world, file=str(file), sha256=good)
    pilot_file.hand_out(world.edge.site)
    file.write_bytes(b"#!/bin/sh\nrm -rf /\n")
    with pytest.raises(AilurusError, match="sha256"):
        pilot_file.hand_out(world.edge.site)
    world.dispatcher.jobs = 1
    world.cycle()
    assert (world.batch.orders, world.dispatcher.intents) == ([], {})
    assert builds(world) == [good[:16]]


def test_a_copy_appears_whole_or_not_at_all(world, file, monkeypatch):
    configure(world, file=str(file))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            pilot_file.hand_out(world.edge.site)
    assert not pilot_file.place(world.edge.site).exists()
    pilot_file.hand_out(world.edge.site)
    assert os.access(pilot_file.place(world.edge.site), os.X_OK)
    assert [one.name for one in pilot_file.place(world.edge.site).parent.iterdir()] == ["pilot"]
