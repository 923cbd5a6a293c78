"""Pilots that leave without a job although jobs wait are counted like failed starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ailurus.protocol.resources import Shape
from ailurus.protocol.worker import Ending, Phase
from harvester_edge.launch import launch
from harvester_edge.render import script
from harvester_edge.status import glance

pytestmark = pytest.mark.field("P6")


def lives(world, jobs: str | None, *, waits: int = 1, seconds: float = 60) -> None:
    """A worker is submitted, runs for a while with `waits` jobs in the queue, and leaves with its
    word."""
    world.dispatcher.jobs = 1
    world.cycle()
    live = [worker for worker in world.workers() if worker.registered is None]
    if not live:
        return
    world.batch.set(Phase.STARTING)
    for worker in live:
        world.dispatcher.register(worker.intent, worker.index)
    world.dispatcher.jobs = waits
    world.configure(max_total=len(world.workers()))
    world.cycle(2, seconds=seconds / 2)
    for worker in live:
        place = world.edge.worker_directories / worker.intent / str(worker.index)
        if jobs is not None:
            (place / "left").write_text(jobs)
        world.dispatcher.end(worker.intent, Ending.IDLE_EXIT, worker.index)
    world.batch.jobs.clear()
    world.dispatcher.jobs = 1
    world.configure(max_total=4)


def test_three_that_leave_empty_stop_the_slot_and_the_need_is_named(world):
    world.dispatcher.shape = Shape(cores=1, memory_mb=3000)
    for _ in range(6):
        lives(world, "0\n")
        world.cycle(seconds=1)
    decision = world.cycle(seconds=1)
    assert (decision.submit, decision.binding.name) == ({}, "breaker")
    for part in ("left without a job", "1 cores, 3000 MB", "3540 s left", "more time"):
        assert part in decision.binding.why
    assert len(world.batch.orders) < 6
    assert "3540 s left" in glance(world.edge.site).slots[0].health.reason


@pytest.mark.parametrize(
    ("jobs", "waits"), [("3\n", 1), (None, 1), ("", 1), ("x", 1), ("0\n", 0)], ids=repr
)
def test_one_that_had_jobs_or_came_too_late_says_nothing(world, jobs, waits):
    for _ in range(5):
        lives(world, jobs, waits=waits)
    world.cycle()
    assert not any(one.health.failures for one in glance(world.edge.site).slots)


def test_one_that_stays_has_had_a_job(world):
    for _ in range(6):
        lives(world, "0\n")
        world.cycle(seconds=1)
    assert world.cycle().binding.name == "breaker"
    world.dispatcher.jobs = 2
    world.clock.forward(3700)
    assert world.cycle().submit == {"std": 1}  # one probe
    assert world.cycle(3).submit == {}
    world.batch.set(Phase.STARTING)
    world.dispatcher.register(world.batch.orders[-1][0])
    world.cycle(4, seconds=60)
    assert world.cycle().binding.name != "breaker"
    assert len(world.workers()) > 1


def test_the_script_tells_the_pilot_where_to_leave_its_word(world, tmp_path: Path):
    from pilot.__main__ import _write_job_count

    text = script(launch(world.edge.site, "std", "TAG"), "3").partition("exec ")[0] + "env\n"
    ran = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    (left,) = (line for line in ran.stdout.splitlines() if line.startswith("AILURUS_LEFT_FILE="))
    assert left.partition("=")[2] == str(world.edge.worker_directories / "TAG" / "3" / "left")
    _write_job_count(str(tmp_path / "left"), 7)
    assert (tmp_path / "left").read_text() == "7\n"
    _write_job_count(str(tmp_path / "no" / "left"), 7)  # a directory that is gone costs nothing
