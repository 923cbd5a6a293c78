"""The edge's cycle against a batch system and a dispatcher in memory."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.machine import machine_of
from ailurus.protocol.resources import Shape
from ailurus.protocol.worker import Ending, Phase
from harvester_edge.book import Book
from harvester_edge.daemon import cycle
from harvester_edge.files import write_whole
from harvester_edge.lease import SiteTaken
from harvester_edge.ports import Unclear, nodes_of
from harvester_edge.site import Budget
from tests.harvester_edge.conftest import started


def test_demand_becomes_workers(world):
    world.dispatcher.jobs = 3
    decision = world.cycle()
    assert decision.submit == {"std": 3}
    assert len(world.batch.jobs) == 3
    assert {worker.phase for worker in world.workers()} == {Phase.QUEUED}
    tag, order = world.batch.orders[0]
    assert (order.directory / "2" / "bootstrap").read_text() == "token-2"
    assert (order.directory / "2" / "bootstrap").stat().st_mode & 0o777 == 0o600
    assert "token-" not in order.script
    assert world.dispatcher.intents == {tag: 3}


def test_queued_workers_and_free_room_count_against_demand(world):
    world.dispatcher.jobs = 2
    world.cycle()
    assert world.cycle().submit == {}
    tag = world.batch.orders[0][0]
    world.batch.set(Phase.STARTING)
    world.dispatcher.register(tag, 0, free=1)
    world.dispatcher.register(tag, 1, free=0)
    assert world.cycle().submit == {"std": 1}  # two jobs wait, one core is free


def test_demand_is_split_among_the_sites_that_serve_a_queue(world):
    world.dispatcher.jobs, world.dispatcher.sharing = 3, 2
    assert world.cycle().submit == {"std": 2}


def test_a_full_site_says_so(world):
    world.dispatcher.jobs = 100
    world.cycle()
    decision = world.cycle()
    assert decision.submit == {}
    assert decision.binding.name == "total"
    assert decision.binding.why == "4 of 4 exist"


def test_b7_demand_that_no_slot_can_serve_submits_nothing_and_says_never(world):
    world.dispatcher.jobs = 5
    for shape, said in (
        (Shape(cores=2), "1 cores at most"),
        (Shape(walltime_s=7200), "3540 s of walltime at most"),
        (Shape(walltime_s=3600), "3540 s of walltime at most"),  # the whole walltime is too long
        (Shape(gpus=1), "0 GPUs at most"),
        (Shape(memory_mb=8000), "4000 MB of memory at most"),
        (Shape(nodes=2), "1 nodes at most"),
    ):
        world.dispatcher.shape = shape
        decision = world.cycle(3)
        assert decision.submit == {}
        assert decision.binding.why == "no slot of this site can ever run what waits"
        assert said in decision.notes[0]
    assert not world.batch.orders


def test_an_allocation_of_several_nodes_is_submitted_whole_or_not_at_all(world):
    """Four workers may exist, and an allocation brings three."""
    slots = {"std": replace(world.edge.site.slots["std"], nodes=3)}
    world.edge.site = replace(world.edge.site, slots=slots)
    world.dispatcher.jobs = 100
    assert world.cycle().submit == {"std": 3}
    assert world.cycle().submit == {}


def test_one_pilot_for_all_nodes_of_an_allocation_is_one_worker_that_costs_them_all(world):
    """Four workers may exist, and a budget has node-hours for two of three nodes each."""
    world.configure(budget=Budget(node_hours=6.5, period="day"))
    slots = {"std": replace(world.edge.site.slots["std"], nodes=3, pilots="head")}
    world.edge.site = replace(world.edge.site, slots=slots)
    world.dispatcher.jobs, world.dispatcher.shape = 100, Shape(nodes=3)
    decision = world.cycle()
    assert (decision.submit, decision.binding.name) == ({"std": 2}, "budget")
    tag = world.batch.orders[0][0]
    assert nodes_of(tag) == 1
    world.batch.set(Phase.STARTING)
    for index in (0, 1):
        world.dispatcher.register(tag, index)
    assert "2 workers of 6 nodes: 0 wait to start, 2 active" in " ".join(world.cycle().inputs)
    world.cycle(seconds=1198)
    world.dispatcher.end(tag, Ending.IDLE_EXIT, 0)
    world.batch.set(Phase.ENDED, Ending.DONE)
    world.cycle()
    # 20 minutes of three nodes, by each.
    assert world.edge.book.spent(0.0) == pytest.approx(2.0, abs=0.1)


def test_a_worker_that_finds_less_than_its_slot_promises_is_believed(world):
    slots = {"std": replace(world.edge.site.slots["std"], cores=4)}
    world.edge.site = replace(world.edge.site, slots=slots)
    world.dispatcher.jobs, world.dispatcher.shape = 1, Shape(cores=4)
    world.cycle()
    world.batch.set(Phase.STARTING)
    world.dispatcher.register(world.batch.orders[0][0], free=2, cores=2)
    decision = world.cycle(2)
    assert decision.submit == {}
    assert "2 cores at most" in decision.notes[0]


def test_a_slot_whose_workers_are_other_machines_than_jobs_need_gets_no_more_of_them(world):
    """The first shows what they are; what it is not counts as no room either."""
    old = Hardware(arch="x86-64-v2")
    world.dispatcher.jobs = 1
    world.dispatcher.shape = Shape(machine=machine_of(["x86_64-v3"], None))
    assert world.cycle().submit == {"std": 1}
    world.batch.set(Phase.ACTIVE)
    world.dispatcher.register(world.batch.orders[0][0], free=1)
    key = next(iter(world.dispatcher.rows))
    world.dispatcher.rows[key] = replace(world.dispatcher.rows[key], hardware=old)
    decision = world.cycle(2)
    assert decision.submit == {}
    assert "x86-64-v2 where x86-64-v3 is wanted" in decision.notes[0]
    world.dispatcher.jobs, world.dispatcher.shape = 2, Shape()
    assert world.cycle().submit == {"std": 1}


def test_a_pause_file_is_honoured_within_a_cycle(world):
    world.dispatcher.jobs = 1
    (world.edge.state / "pause").write_text("maintenance until noon\n")
    decision = world.cycle()
    assert decision.submit == {}
    assert decision.binding.name == "paused"
    assert "maintenance until noon" in decision.binding.why
    (world.edge.state / "pause").unlink()
    assert world.cycle().submit == {"std": 1}


def test_a_drain_file_drains_and_submits_nothing(world):
    started(world, count=2)
    (world.edge.state / "drain").touch()
    world.dispatcher.jobs = 5
    decision = world.cycle()
    assert (decision.submit, decision.binding.name) == ({}, "paused")
    assert sorted(world.dispatcher.drained) == [1, 2]
    assert not world.batch.cancelled


def test_a_budget_counts_promised_hours_and_keeps_what_workers_really_used(world):
    """Two hours a day, workers of one hour: two at a time; one that ends early leaves the rest."""
    world.configure(budget=Budget(node_hours=2, period="day"), max_total=9)
    world.dispatcher.jobs = 9
    assert world.cycle().submit == {"std": 2}
    decision = world.cycle()
    assert (decision.submit, decision.binding.name) == ({}, "budget")
    assert decision.binding.why == "2.0 of 2.0 node-hours of the period are spent or promised"
    tag = world.batch.orders[0][0]
    world.batch.set(Phase.STARTING)
    for index in (0, 1):
        world.dispatcher.register(tag, index)
    world.cycle(seconds=1200)
    for index in (0, 1):
        world.dispatcher.end(tag, Ending.IDLE_EXIT, index)
    world.batch.set(Phase.ENDED, Ending.DONE)
    assert world.cycle().submit == {"std": 1}  # 40 minutes are spent
    world.restart()
    world.cycle()
    assert world.cycle().binding.name == "budget"
    world.clock.forward(86_400)
    assert world.cycle().submit == {"std": 1}


def test_cores_of_all_workers_are_limited(world):
    slots = {"std": replace(world.edge.site.slots["std"], cores=8)}
    world.edge.site = replace(world.edge.site, slots=slots)
    world.configure(max_cores=20)
    world.dispatcher.jobs = 99
    world.cycle(3)
    assert len(world.workers()) == 2
    assert world.edge.decisions.last.binding.why == "16 of 20 cores are taken"


def test_a_full_site_leaves_its_share_to_the_others(world):
    world.dispatcher.jobs = 100
    world.cycle(2)
    assert world.dispatcher.asked[-1].room == 0


def test_without_a_dispatcher_nothing_is_submitted_and_nobody_ends(world):
    world.dispatcher.jobs = 2
    world.cycle()
    world.dispatcher.down = True
    world.batch.set(Phase.STARTING)
    decision = world.cycle(100, seconds=60)
    assert decision.binding.name == "dispatcher"
    assert {worker.phase for worker in world.workers()} == {Phase.STARTING}
    world.dispatcher.down, world.dispatcher.jobs = False, 0
    world.cycle(3)
    assert {worker.phase for worker in world.workers()} == {Phase.STARTING}
    world.dispatcher.register(world.batch.orders[0][0], 0)
    world.dispatcher.register(world.batch.orders[0][0], 1)
    world.cycle()
    assert {worker.phase for worker in world.workers()} == {Phase.ACTIVE}


def test_a_site_that_another_edge_has_is_refused(world):
    world.dispatcher.taken = True
    with pytest.raises(SiteTaken, match="another edge has it"):
        cycle(world.edge)


def test_what_is_more_than_an_array_holds_is_submitted_by_several(world):
    limits = replace(world.edge.site.backend.limits, max_array=2)
    world.edge.site = replace(
        world.edge.site, backend=replace(world.edge.site.backend, limits=limits)
    )
    world.configure(max_total=9, max_queued=9, per_cycle=9)
    world.dispatcher.jobs = 5
    world.cycle()
    assert [order.count for _, order in world.batch.orders] == [2, 2, 1]


def test_after_a_submission_that_was_not_taken_no_other_follows_in_this_cycle(world):
    limits = replace(world.edge.site.backend.limits, max_array=1)
    world.edge.site = replace(
        world.edge.site, backend=replace(world.edge.site.backend, limits=limits)
    )
    world.dispatcher.jobs = 4
    world.batch.answers = [Unclear("timed out")]
    world.cycle()
    assert len(world.batch.orders) == 1


# --- shrinking ------------------------------------------------------------------------------------


def test_b6_a_lowered_limit_drains_a_few_idle_ones_first(world):
    tag = started(world, count=4)
    world.dispatcher.register(tag, 2, free=1)
    world.configure(max_total=3)
    world.cycle()
    assert world.dispatcher.drained == [world.dispatcher.rows[tag, 2].worker_id]
    assert not world.batch.cancelled


def test_b6_workers_that_drain_for_long_are_not_made_up_for_by_others(world):
    tag = started(world, count=4)
    world.configure(max_total=3)
    world.cycle(5)
    assert len(world.dispatcher.drained) == 1
    index = world.dispatcher.drained[0] - 1
    world.dispatcher.end(tag, Ending.DONE, index)
    world.batch.jobs[tag, index] = replace(
        world.batch.jobs[tag, index], phase=Phase.ENDED, ending=Ending.DONE
    )
    world.cycle(5)
    assert len(world.workers()) == 3
    assert len(world.dispatcher.drained) == 1


def test_b6_a_wrong_limit_never_removes_most_workers(world):
    started(world, count=4)
    world.configure(max_total=0)
    decision = world.cycle(20)
    assert world.dispatcher.drained == []
    assert world.batch.cancelled == []
    assert "needs your word" in decision.notes[0]
    assert len(world.workers()) == 4


def test_b6_a_slot_that_is_gone_from_the_file_removes_nobody(world):
    started(world, count=4)
    other = {"new": world.edge.site.slots["std"]}
    world.edge.site = replace(world.edge.site, slots=other)
    world.cycle(20)
    assert world.dispatcher.drained == []
    assert len(world.workers()) == 4


def test_status_drain_lets_all_finish(world):
    started(world, count=3)
    policy = replace(world.edge.site.policy, status="drain")
    world.edge.site = replace(world.edge.site, policy=policy)
    world.cycle()
    assert sorted(world.dispatcher.drained) == [1, 2, 3]
    assert not world.batch.cancelled


def test_news_is_told_until_it_is_answered_and_not_again(world):
    world.dispatcher.jobs = 1
    world.cycle()
    told = len(world.dispatcher.news)
    assert world.dispatcher.news[-1].phase is Phase.QUEUED
    world.cycle(5)
    assert len(world.dispatcher.news) == told


def test_an_unchanged_decision_is_written_once(world):
    world.cycle(20)
    assert len(world.edge.book.decisions(100)) == 1


def test_ended_workers_are_forgotten_with_their_logs(world):
    tag = started(world)
    world.dispatcher.end(tag, Ending.DONE)
    world.batch.set(Phase.ENDED, Ending.DONE)
    world.cycle()
    world.batch.jobs.clear()
    assert (world.edge.worker_directories / tag).exists()
    world.clock.forward(4 * 86400)
    world.cycle()
    assert not (world.edge.worker_directories / tag).exists()
    assert world.edge.book.recent() == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "f", b"one", mode=0o600)
    write_whole(tmp_path / "f", b"two", mode=0o600)
    assert (tmp_path / "f").read_text() == "two"
    assert [one.name for one in tmp_path.iterdir()] == ["f"]


def test_b2_a_clock_that_is_set_makes_nobody_late(monkeypatch):
    import time

    from harvester_edge.edge import SteadyClock

    clock = SteadyClock()
    before = clock()
    monkeypatch.setattr(time, "time", lambda: before + 3600)
    assert clock() - before < 60
    monkeypatch.setattr(time, "time", lambda: before - 3600)
    assert clock() >= before


@pytest.mark.parametrize(("ahead_s", "told"), [(86_400, True), (-600, True), (30, False)])
def test_a_clock_that_was_set_under_the_edge_is_told(world, monkeypatch, ahead_s, told):
    """A machine that starts an edge before it knows the time: its deadlines are of another day."""
    import time

    from harvester_edge.edge import SteadyClock

    world.edge.clock = SteadyClock()
    now = world.edge.clock()
    monkeypatch.setattr(time, "time", lambda: now + ahead_s)
    inputs = cycle(world.edge).inputs
    assert any("restart it, or its deadlines are wrong" in text for text in inputs) is told


def test_r6_a_cycle_whose_mark_cannot_be_written_counts_all_the_same(world):
    (world.edge.state / "alive").symlink_to("nowhere/at/all")
    world.dispatcher.jobs = 1
    assert world.cycle().submit == {"std": 1}
    assert len(world.batch.jobs) == 1


@pytest.mark.field("H10")
def test_an_edge_that_never_had_its_site_claims_no_directory(world):
    """A first `run` that failed, by a token say: the name in the site file may still be mended."""
    world.dispatcher.down = True
    world.cycle()
    file = world.edge.state / "book.sqlite"
    Book(file, site="other").close()
    world.dispatcher.down = False
    world.cycle(seconds=60)
    with pytest.raises(AilurusError, match="is the book of site demo"):
        Book(file, site="other")
