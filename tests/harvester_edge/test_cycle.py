"""The edge's cycle against a batch system and a dispatcher in memory."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.resources import Shape
from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.book import Book
from harvester_edge.daemon import cycle
from harvester_edge.files import write_whole
from harvester_edge.lease import SiteTaken
from harvester_edge.ports import BatchId, Rejected, Sighting, Tag, Unclear
from harvester_edge.site import Budget


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


# --- submissions that are in doubt ----------------------------------------------------------------


def test_an_unclear_submission_is_never_repeated_and_found_by_its_tag(world):
    world.dispatcher.jobs = 2
    world.batch.answers, world.batch.lose_answers = [Unclear("timed out")], True
    world.cycle()
    assert {worker.outcome for worker in world.workers()} == {Outcome.UNCLEAR}
    world.cycle(5)
    assert len(world.batch.orders) == 1
    assert {worker.phase for worker in world.workers()} == {Phase.QUEUED}
    assert {worker.outcome for worker in world.workers()} == {Outcome.ACCEPTED}


def test_an_unclear_submission_that_never_arrived_is_given_up_after_two_searches(world):
    world.dispatcher.jobs = 1
    world.batch.answers = [Unclear("timed out")]
    world.cycle(14)  # settle 10 s, grace 20 s
    assert len(world.batch.orders) == 1
    world.cycle(4)
    assert len(world.batch.orders) == 2
    (row,) = [one for one in world.edge.book.recent() if one.phase is Phase.ENDED]
    assert (row.ending, row.outcome) == (Ending.CANCELLED, Outcome.REJECTED)


def test_one_that_was_given_up_and_arrives_after_all_is_taken_back(world):
    world.dispatcher.jobs = 1
    world.batch.answers, world.batch.lose_answers = [Unclear("timed out")], True
    world.batch.hidden = True
    world.cycle(18)
    world.dispatcher.jobs = 0
    world.batch.hidden = False
    world.cycle()
    assert {worker.phase for worker in world.workers()} == {Phase.QUEUED}
    assert len(world.workers()) == len(world.batch.jobs)


def test_a_rejected_submission_counts_for_the_breaker(world):
    world.dispatcher.jobs = 1
    world.batch.answers = [Rejected("invalid account") for _ in range(9)]
    decision = world.cycle(10)
    assert len(world.batch.orders) == 3
    assert decision.binding.name == "breaker"
    assert "invalid account" in decision.binding.why


@pytest.mark.parametrize("stop", ["planned", "submitting"])
def test_a_restart_before_the_batch_system_was_asked_submits_once(world, stop):
    world.dispatcher.jobs = 1
    world.dispatcher.down = stop == "planned"

    def killed(*_):
        raise KeyboardInterrupt

    original = world.batch.submit
    world.batch.submit = killed
    if stop == "planned":
        world.dispatcher.down = False
        world.dispatcher._intent = killed
    with pytest.raises(KeyboardInterrupt):
        world.cycle()
    world.batch.submit = original
    world.dispatcher.__dict__.pop("_intent", None)
    world.restart()
    world.cycle(30)
    assert len(world.batch.jobs) == 1
    assert [worker.phase for worker in world.workers()] == [Phase.QUEUED]


# --- how workers end ------------------------------------------------------------------------------


def started(world, count=1):
    world.dispatcher.jobs = count
    world.cycle()
    tag = world.batch.orders[0][0]
    world.batch.set(Phase.STARTING)
    for index in range(count):
        world.dispatcher.register(tag, index)
    world.dispatcher.jobs = 0
    world.cycle()
    return tag


def test_b4_a_listing_without_our_jobs_ends_nobody_who_is_heard(world):
    started(world)
    world.batch.hidden = True
    world.cycle(100)
    assert [worker.phase for worker in world.workers()] == [Phase.ACTIVE]


def test_b4_a_batch_system_that_is_down_ends_nobody_and_the_reason_says_so(world):
    tag = started(world)
    world.dispatcher.end(tag, Ending.LOST)
    world.batch.broken = "Unable to contact slurm controller"
    world.cycle(5)
    world.dispatcher.jobs = 5
    decision = world.cycle(100)
    assert [worker.phase for worker in world.workers()] == [Phase.ACTIVE]
    assert decision.submit == {}
    assert "Unable to contact" in decision.binding.why


def test_b4_a_batch_id_used_again_by_another_job_is_not_ours(world):
    started(world)
    ((key, old),) = world.batch.jobs.items()
    del world.batch.jobs[key]
    world.batch.jobs["other", 0] = Sighting(
        batch_id=old.batch_id, tag=Tag("zother"), index=0, phase=Phase.ENDED, ending=Ending.FAILED
    )
    world.cycle(3)
    assert [worker.phase for worker in world.workers()] == [Phase.ACTIVE]


def test_absent_and_unheard_twice_is_lost_and_comes_back_if_it_shows_up(world):
    tag = started(world)
    world.dispatcher.end(tag, Ending.LOST)
    world.batch.hidden = True
    world.cycle(10)
    assert [worker.phase for worker in world.workers()] == [Phase.ACTIVE]
    world.cycle(3)
    assert not world.workers()
    assert world.edge.book.recent()[0].ending is Ending.LOST
    world.batch.hidden = False
    world.cycle()
    assert [worker.phase for worker in world.workers()] == [Phase.ACTIVE]


def test_b4_the_time_in_which_the_history_did_not_answer_is_no_absence(world):
    """Accounts that were down lag behind when they are back."""
    tag = started(world)
    world.dispatcher.end(tag, Ending.LOST)
    world.batch.hidden, world.batch.no_history = True, "the database is down"
    world.cycle(100)
    world.batch.no_history = ""
    world.cycle(9)
    assert [worker.phase for worker in world.workers()] == [Phase.ACTIVE]
    world.cycle(3)
    assert world.edge.book.recent()[0].ending is Ending.LOST


def test_an_unknown_batch_state_changes_nothing(world):
    tag = started(world)
    world.dispatcher.end(tag, Ending.LOST)
    world.batch.set(None)
    world.cycle(50)
    assert [worker.phase for worker in world.workers()] == [Phase.ACTIVE]


@pytest.mark.parametrize(
    ("bye", "batch", "ending"),
    [
        (Ending.IDLE_EXIT, Ending.DONE, Ending.IDLE_EXIT),
        (Ending.DONE, Ending.FAILED, Ending.DONE),
        (Ending.DONE, Ending.WALLTIME, Ending.WALLTIME),
        (Ending.LOST, Ending.FAILED, Ending.FAILED),
        (Ending.LOST, Ending.NODE_FAIL, Ending.NODE_FAIL),
    ],
)
def test_the_better_word_about_the_end_is_kept(world, bye, batch, ending):
    tag = started(world)
    world.dispatcher.end(tag, bye)
    world.batch.set(Phase.ENDED, batch)
    world.cycle()
    assert world.edge.book.recent()[0].ending is ending
    assert world.dispatcher.news[-1].ending is ending


def test_workers_that_never_register_open_the_breaker_and_one_success_closes_it(world):
    world.dispatcher.jobs = 1
    for _ in range(3):
        world.cycle()
        world.batch.set(Phase.ENDED, Ending.FAILED, "exit code 127: pilot: not found")
        world.cycle()
    decision = world.cycle(20)
    assert len(world.batch.orders) == 3
    assert decision.binding.name == "breaker"
    assert "pilot: not found" in decision.binding.why
    world.clock.forward(60)
    world.batch.jobs.clear()
    assert world.cycle(5).submit == {}  # one probe, and it is not answered yet
    assert len(world.batch.orders) == 4
    world.batch.set(Phase.STARTING)
    world.dispatcher.register(world.batch.orders[3][0])
    world.dispatcher.jobs = 3
    assert world.cycle().submit == {"std": 3}


@pytest.mark.parametrize("ending", [Ending.DONE, Ending.NODE_FAIL, Ending.WALLTIME, Ending.OOM])
def test_whatever_ends_before_its_pilot_registers_is_a_failed_start(world, ending):
    """A pilot program that exits with 0 at once must not be started for ever."""
    world.dispatcher.jobs = 1
    for _ in range(3):
        world.cycle()
        world.batch.set(Phase.ENDED, ending)
        world.cycle()
    assert world.cycle(20).binding.name == "breaker"
    assert len(world.batch.orders) == 3


def test_what_another_had_the_better_claim_to_is_no_failed_start(world):
    world.dispatcher.jobs = 1
    for _ in range(4):
        world.cycle()
        world.batch.set(Phase.ENDED, Ending.PREEMPTED)
        world.cycle()
    assert len(world.batch.orders) >= 4


def test_one_that_runs_without_registering_is_ended_after_the_grace(world):
    world.dispatcher.jobs = 1
    world.cycle()
    world.dispatcher.jobs = 0
    world.batch.set(Phase.STARTING)
    world.cycle(3, seconds=150)
    assert world.edge.book.recent()[0].ending is Ending.NEVER_REGISTERED
    world.cycle()
    assert world.batch.cancelled == [BatchId("1")] or set(world.batch.cancelled) == {"1"}


def test_one_that_waits_beyond_its_deadline_is_cancelled(world):
    world.dispatcher.jobs = 1
    world.cycle()
    world.clock.forward(2 * 86400 + 10)
    world.cycle()
    assert world.batch.cancelled == ["1"]


def unknown(world, **more):
    """A job of ours of which the book knows nothing."""

    tag = Tag(world.edge.site.tag_prefix + "aaaaaaaaaa")
    one = Sighting(batch_id=BatchId("77"), tag=tag, index=0, phase=Phase.QUEUED)
    world.batch.jobs[tag, 0] = replace(one, **more)
    return tag


def test_who_takes_a_site_adopts_what_it_finds_there(world):
    unknown(world)
    world.dispatcher.jobs = 100
    world.cycle(3)
    assert len(world.workers()) == 4  # the limit counts it
    assert not world.batch.cancelled
    assert "77" in {
        one.batch_id for one in world.dispatcher.news
    }  # by which its pilot may register


def test_who_takes_a_site_again_adopts_what_came_meanwhile(world):
    world.cycle()
    unknown(world)
    world.dispatcher.epoch, world.edge.lease.renew_at = 3, 0.0
    world.cycle()
    assert [one.batch_id for one in world.workers()] == ["77"]


def test_a_worker_that_turns_up_later_is_a_stray_and_is_cancelled(world):
    """Submitted by an edge that had lost the site: nobody vouches for it."""
    world.cycle()
    unknown(world)
    world.cycle()
    assert world.batch.cancelled == ["77"]
    assert not world.workers()
    assert not world.dispatcher.news


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.STARTING])
def test_one_that_the_first_listing_lacked_is_adopted_later_if_it_was_told_of(world, phase):
    """The edge before had told that the batch system has it; of a stray nobody had."""
    tag = unknown(world)
    world.batch.hidden = True
    world.cycle()
    world.batch.hidden = False
    world.dispatcher.register(tag)
    row = replace(world.dispatcher.rows[tag, 0], phase=phase, registered=0.0)
    world.dispatcher.rows[tag, 0] = row
    world.cycle()
    assert [one.batch_id for one in world.workers()] == ["77"]
    assert not world.batch.cancelled


def test_one_in_a_state_that_nobody_knows_is_adopted_and_seen(world):
    unknown(world, phase=None, detail="GLITCHED")
    decision = world.cycle()
    (worker,) = world.workers()
    assert worker.batch_id == "77"
    assert worker.diagnosis.endswith("do not know: GLITCHED")
    decision = world.cycle()
    assert any("GLITCHED" in line for line in decision.inputs)
    world.batch.set(Phase.STARTING)
    world.cycle()
    assert not world.batch.cancelled
    assert world.workers()[0].phase is Phase.STARTING
    assert not any("GLITCHED" in line for line in world.cycle().inputs)


def test_without_the_dispatchers_word_nothing_is_a_stray(world):
    """The site may be another edge's by now, and the workers in the listing its own."""
    world.cycle()
    unknown(world)
    world.dispatcher.down = True
    world.cycle(3)
    assert not world.batch.cancelled


def test_an_edge_that_slept_before_it_submitted_does_not_submit(world):
    world.dispatcher.jobs, world.dispatcher.slow_s = 1, 61.0  # longer than the site's lease
    world.cycle()
    assert not world.batch.orders
    assert not world.workers()


@pytest.mark.parametrize("first", [True, False])
def test_of_two_jobs_of_one_worker_the_one_that_lives_counts(world, first):
    """Somebody has submitted the script again; its pilot was refused, and has ended."""
    tag = started(world)
    own = world.batch.jobs[tag, 0]
    other = replace(own, batch_id=BatchId("99"), phase=Phase.ENDED, ending=Ending.FAILED)
    del world.batch.jobs[tag, 0]
    pair = {(tag, 0): own, (tag, 99): other}
    world.batch.jobs = pair if first else dict(reversed(pair.items()))
    world.cycle(2)
    (worker,) = world.workers()
    assert (worker.phase, worker.batch_id) == (Phase.ACTIVE, own.batch_id)


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
