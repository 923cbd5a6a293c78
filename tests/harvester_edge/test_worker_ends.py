"""Submissions that are in doubt, and how workers end, as a cycle of the edge judges them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.ports import BatchId, Rejected, Sighting, Tag, Unclear

# --- submissions that are in doubt ----------------------------------------------------------------
from tests.harvester_edge.conftest import started


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
