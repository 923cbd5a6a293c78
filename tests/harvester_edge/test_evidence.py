"""E3: over any interleaving of listings, gaps, errors and heartbeats no worker ends without
evidence."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol.messages import WorkerRow
from ailurus.protocol.resources import Room
from ailurus.protocol.worker import Ending, Phase
from harvester_edge.evidence import Evidence, Times, Worker, is_alive, judge
from harvester_edge.ports import BatchId, Sighting, Tag

TIMES = Times(grace_s=60, start_grace_s=300)
ENDINGS = st.sampled_from([Ending.DONE, Ending.FAILED, Ending.WALLTIME, Ending.CANCELLED])


def sighting(phase, ending):
    return Sighting(
        batch_id=BatchId("1"),
        tag=Tag("t"),
        index=0,
        phase=phase,
        ending=ending if phase is Phase.ENDED else None,
    )


def row(phase, ending):
    return WorkerRow(
        worker_id=7, site="s", queue="q", host="h", phase=phase,
        ending=ending if phase is Phase.ENDED else None, registered=1.0, last_heard=1.0,
        room=Room(), total=Room(), intent="t",
    )  # fmt: skip


sightings = st.none() | st.builds(
    sighting,
    st.sampled_from([Phase.QUEUED, Phase.HELD, Phase.STARTING, Phase.ENDED, None]),
    ENDINGS,
)
rows = st.none() | st.builds(
    row,
    st.sampled_from([Phase.ACTIVE, Phase.DRAINING, Phase.ENDED]),
    st.sampled_from([Ending.DONE, Ending.IDLE_EXIT, Ending.LOST]),
)
looks = st.lists(
    st.tuples(st.floats(1, 400), st.booleans(), sightings, st.booleans(), rows),
    min_size=1,
    max_size=12,
)
NEW = Worker(intent="t", index=0, slot="std", queue="q", planned=0.0, phase=Phase.QUEUED)


@settings(max_examples=500)
@given(looks)
def test_e3_no_end_without_evidence(looks):
    worker, now, absent_before, answers = NEW, 0.0, 0, None
    for seconds, listed, seen, asked, told in looks:
        now += seconds
        answers = (answers or now) if asked else None
        evidence = Evidence(
            now=now,
            listed=listed,
            sighting=seen if listed else None,
            answers_since=answers,
            row=told if asked else None,
        )
        after = judge(worker, evidence, TIMES)
        gone = listed and seen is None and not is_alive(evidence.row)
        absent_before = absent_before + 1 if gone else 0 if listed and seen else absent_before
        if after.phase is Phase.ENDED and worker.phase is not Phase.ENDED:
            batch_says = evidence.sighting is not None and seen.phase is Phase.ENDED
            pilot_says = gone and evidence.row is not None and told.ending is not Ending.LOST
            twice_gone = gone and absent_before >= 2
            never_came = after.ending is Ending.NEVER_REGISTERED and worker.started is not None
            assert batch_says or pilot_says or twice_gone or never_came
        if is_alive(evidence.row) and not (evidence.sighting and seen.phase is Phase.ENDED):
            assert after.phase in (Phase.ACTIVE, Phase.DRAINING)
        if not listed and not asked:
            assert after is worker
        worker = after
        if worker.phase is Phase.ENDED:
            return


def test_absence_right_after_a_heartbeat_means_nothing():
    alive = Evidence(now=0, listed=True, row=row(Phase.ACTIVE, None))
    assert judge(NEW, alive, TIMES).phase is Phase.ACTIVE


def test_a_pilot_that_said_goodbye_and_is_gone_has_ended_with_its_own_word():
    gone = Evidence(now=0, listed=True, row=row(Phase.ENDED, Ending.IDLE_EXIT))
    assert judge(NEW, gone, TIMES).ending is Ending.IDLE_EXIT


def test_a_pilot_that_said_goodbye_and_still_runs_is_on_its_way_out():
    leaving = Evidence(
        now=0,
        listed=True,
        sighting=sighting(Phase.STARTING, None),
        row=row(Phase.ENDED, Ending.DONE),
    )
    assert judge(NEW, leaving, TIMES).phase is Phase.DRAINING


def test_a_silent_pilot_that_runs_is_not_replaced():
    silent = Evidence(
        now=0,
        listed=True,
        sighting=sighting(Phase.STARTING, None),
        row=row(Phase.ENDED, Ending.LOST),
    )
    assert judge(NEW, silent, TIMES).phase is Phase.ACTIVE


def test_no_verdict_on_registration_while_the_dispatcher_is_away():
    ended = Evidence(
        now=0, listed=True, sighting=sighting(Phase.ENDED, Ending.FAILED), answers_since=None
    )
    assert judge(NEW, ended, TIMES).phase is not Phase.ENDED
