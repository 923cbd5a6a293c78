"""What an observation changes, as a function of values: no batch system, no book, no clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.evidence import Times, Worker
from harvester_edge.ports import BatchId, Sighting, Tag
from harvester_edge.reconcile import Observation, Rules, idle_first, reconcile
from harvester_edge.upstream import Demand

NOW = 10_000.0
RULES = Rules("aabcd", {"std": "q"}, 3600.0, Times(grace_s=20, start_grace_s=300, give_up_s=3600))
KEY = ("aabcdtag", 0)


def worker(phase=Phase.QUEUED, **more) -> Worker:
    usual = {"intent": KEY[0], "index": 0, "slot": "std", "queue": "q", "planned": NOW - 60}
    accepted = {"outcome": Outcome.ACCEPTED, "batch_id": "1"} if phase is not Phase.PLANNED else {}
    return Worker(**{**usual, **accepted, "phase": phase, **more})


def sighting(phase, key=KEY, batch_id="1", **more) -> Sighting:
    return Sighting(batch_id=BatchId(batch_id), tag=Tag(key[0]), index=key[1], phase=phase, **more)


def row(phase=Phase.ACTIVE, registered=NOW - 30, **more) -> m.WorkerRow:
    return m.WorkerRow(
        worker_id=7, site="s", queue="q", host="n", phase=phase, registered=registered,
        last_heard=NOW, room=Room(cores=0), total=Room(cores=1), intent=KEY[0], index=0, **more,
    )  # fmt: skip


def seen(*sightings, rows=(), **more) -> Observation:
    usual = {
        "now": NOW, "listing": {(one.tag, one.index): one for one in sightings},
        "listing_fault": "", "searches": {}, "demand": Demand(m.Demand(shapes=(), workers=rows)),
        "dispatcher_fault": "", "demanded": True, "answers_since": 0.0, "adopting": False,
        "ended": {}, "condemned": frozenset(), "pilots_register": True,
    }  # fmt: skip
    return Observation(**{**usual, **more})


def changes(living, observation):
    return reconcile({one.key: one for one in living}, observation, RULES)


def test_a_worker_that_was_planned_and_never_submitted_ends():
    (after,) = changes([worker(Phase.PLANNED)], seen()).ended
    assert (after.ending, after.outcome) == (Ending.CANCELLED, Outcome.REJECTED)


def test_what_has_not_changed_is_no_change():
    made = changes([worker()], seen(sighting(Phase.QUEUED)))
    assert made == ((), (), (), ())


def test_without_an_answer_of_the_batch_system_nobody_ends_and_nothing_is_cancelled():
    made = changes([worker(deadline=NOW - 1)], seen(listing=None))
    assert made == ((), (), (), ())


@pytest.mark.parametrize(
    ("adopting", "rows", "adopted"),
    [
        (True, (), True),
        (False, (), False),
        (False, (row(),), True),
        # Not registered, but reported as queued by the edge before.
        (False, (row(Phase.QUEUED, registered=0.0),), True),
        (False, (row(Phase.PLANNED, registered=0.0),), False),
    ],
)
def test_an_unknown_worker_is_adopted_or_a_stray(adopting, rows, adopted):
    made = changes([], seen(sighting(Phase.STARTING), adopting=adopting, rows=rows))
    assert [one.key for one in made.adopted] == [KEY] * adopted
    assert [key for key, _ in made.strays] == [KEY] * (not adopted)
    assert made.cancel == () if adopted else made.cancel == ("1",)


def test_a_job_of_another_prefix_is_no_worker_and_one_unsure_look_cancels_nothing():
    other = sighting(Phase.STARTING, ("zother", 0), "9")
    assert changes([], seen(other, adopting=True)).adopted == ()
    made = changes([], seen(sighting(Phase.STARTING), dispatcher_fault="no answer"))
    assert made == ((), (), (), ())


@pytest.mark.parametrize(
    ("ending", "rows", "returns"),
    [
        (Ending.LOST, (), True),
        (Ending.CANCELLED, (), True),
        (Ending.DONE, (), False),
        (Ending.NEVER_REGISTERED, (), False),
        (Ending.NEVER_REGISTERED, (row(),), True),
    ],
)
def test_one_that_was_given_up_returns_when_it_shows_life(ending, rows, returns):
    over = worker(Phase.ENDED, ending=ending, ended=NOW - 5)
    made = changes([], seen(sighting(Phase.STARTING), rows=rows, ended={KEY: over}))
    assert [one.key for one in made.workers] == [KEY] * returns
    assert made.adopted == made.strays == ()


def test_one_that_never_registered_is_cancelled_for_as_long_as_it_is_listed():
    over = worker(Phase.ENDED, ending=Ending.NEVER_REGISTERED, ended=NOW - 5)
    made = changes([], seen(sighting(Phase.STARTING), ended={KEY: over}))
    assert made.cancel == ("1",)
    silent = worker(Phase.STARTING, started=NOW - 400)
    assert changes([silent], seen(sighting(Phase.STARTING))).cancel == ("1",)


def test_an_allocation_with_one_good_worker_stays():
    late = worker(deadline=NOW - 1)
    good = replace(late, index=1, deadline=NOW + 1)
    both = (sighting(Phase.QUEUED), sighting(Phase.QUEUED, (KEY[0], 1)))
    assert changes([late, good], seen(*both)).cancel == ()
    assert changes([late], seen(both[0])).cancel == ("1",)


def test_what_the_server_condemns_is_cancelled():
    assert changes([worker()], seen(sighting(Phase.QUEUED), condemned={KEY})).cancel == ("1",)


def test_of_those_that_may_be_drained_the_idle_come_first():
    idle = replace(row(), index=1, worker_id=8, room=Room(cores=1))
    rows = {KEY: row(), (KEY[0], 1): idle, (KEY[0], 2): replace(row(Phase.DRAINING), index=2)}
    living = {key: worker() for key in rows}
    assert idle_first(living, rows) == (8, 7)


phases = st.sampled_from([*Phase, None])
keys = st.tuples(st.sampled_from(["aabcdone", "aabcdtwo", "zother"]), st.integers(0, 2))
listings = st.lists(st.tuples(keys, phases, st.sampled_from("123")), max_size=8)


@given(listings, st.sets(keys, max_size=4), st.booleans(), st.booleans())
def test_nothing_good_or_foreign_is_ever_cancelled(listed, living, adopting, answers):
    by_key = {key: sighting(phase, key, batch_id) for key, phase, batch_id in listed}
    shown = by_key.values()
    known = [worker(intent=intent, index=index) for intent, index in living]
    fault = "" if answers else "no answer"
    made = changes(known, seen(*shown, adopting=adopting, dispatcher_fault=fault))
    gone = {one.key for one in made.ended}
    good = {one.batch_id for one in shown if (one.tag, one.index) in living - gone
            and one.phase is not Phase.ENDED}  # fmt: skip
    assert not good & set(made.cancel)
    assert all(one.intent.startswith("aabcd") for one in made.adopted)
    assert not made.strays or answers
