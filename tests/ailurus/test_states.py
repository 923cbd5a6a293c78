"""The life of a job: whatever comes in whatever order, it ends once and stays ended."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import states
from ailurus.protocol.states import (
    ATTEMPT_TABLE,
    FINAL,
    FIRST,
    FIRST_OF_ATTEMPT,
    MAY_COME_BACK,
    NEXT,
    REACHED,
    STAGES,
    TABLE,
    UNUSED,
    WITH_WORKER,
    AttemptChange,
    AttemptState,
    Change,
    JobState,
    Progress,
    Refusal,
)

S = JobState
DOCS = Path(__file__).parents[2] / "docs"
WORKER_WORDS = sorted(WITH_WORKER)

events = st.lists(
    st.one_of(
        st.tuples(st.just("lease")),
        st.tuples(st.just("advance"), st.sampled_from(WORKER_WORDS), st.integers(0, 4)),
        st.tuples(st.just("conclude"), st.booleans(), st.booleans(), st.integers(0, 4)),
        st.tuples(st.just("release"), st.integers(0, 4)),
        st.tuples(st.just("resume"), st.integers(0, 4)),
        st.tuples(st.just("abandon")),
        st.tuples(st.just("cancel")),
    ),
    max_size=40,
)
jobs = st.builds(
    Progress,
    state=st.just(S.ACTIVATED),
    attempt_nr=st.just(0),
    max_attempts=st.integers(1, 4),
    retry_all=st.booleans(),
)


def apply(job: Progress, event: tuple[object, ...]) -> Progress | Refusal:
    match event:
        case ("lease",):
            return states.lease(job)
        case ("advance", state, attempt_nr):
            return states.advance(job, state, attempt_nr)
        case ("conclude", finished, transient, attempt_nr):
            return states.conclude(
                job, finished=finished, transient=transient, attempt_nr=attempt_nr
            )
        case ("release", attempt_nr):
            return states.release(job, attempt_nr)
        case ("resume", attempt_nr):
            return states.resume(job, attempt_nr)
        case ("abandon",):
            return states.abandon(job)
        case _:
            return states.cancel(job)


@given(jobs, events)
def test_every_step_is_in_the_table_and_a_final_job_never_changes_again(job, story):
    for event in story:
        after = apply(job, event)
        if isinstance(after, Refusal):
            continue
        assert job.state not in FINAL
        assert after.state is job.state or after.state in NEXT[job.state]
        assert after.attempt_nr >= job.attempt_nr
        job = after


@given(jobs, events)
def test_no_more_attempts_than_allowed_but_for_those_given_back(job, story):
    allowed, leased, returned = job.max_attempts, 0, 0
    for event in story:
        after = apply(job, event)
        if isinstance(after, Refusal):
            continue
        leased += event[0] == "lease"
        returned += event[0] == "release"
        job = after
    assert leased - returned <= allowed


@given(jobs, events)
def test_the_first_finished_attempt_wins_whichever_it_is(job, story):
    for event in story:
        after = apply(job, event)
        if event[0] == "conclude" and event[1] and 1 <= event[3] <= job.attempt_nr:
            assert (
                after is Refusal.ALREADY_DONE if job.state in FINAL else after.state is S.FINISHED
            )
        job = job if isinstance(after, Refusal) else after


def test_every_state_of_ours_can_be_reached_and_can_reach_an_end():
    entered = {FIRST} | {step.to for step in TABLE.values()}
    assert entered == set(S) - UNUSED == set(NEXT)
    for state in entered:
        seen, todo = set(), {state}
        while todo:
            seen |= todo
            todo = {n for s in todo for n in NEXT[s]} - seen
        assert seen & FINAL


def test_nothing_leads_out_of_a_final_state_or_into_one_of_pandas_own():
    for step in TABLE.values():
        assert not step.start & FINAL
        assert not (step.start | {step.to}) & UNUSED


def test_every_state_of_an_attempt_is_entered_and_only_a_lost_one_comes_back():
    entered = {FIRST_OF_ATTEMPT} | {step.to for step in ATTEMPT_TABLE.values()}
    assert entered == set(AttemptState)
    assert set(ATTEMPT_TABLE) == set(AttemptChange)
    for step in ATTEMPT_TABLE.values():
        assert step.start <= MAY_COME_BACK


def test_an_open_attempt_moves_on_as_its_job_does():
    for state, change in REACHED.items():
        of_job = TABLE[Change(change.value)]
        assert ATTEMPT_TABLE[change].to.value == state.value == of_job.to.value
        assert {one.value for one in ATTEMPT_TABLE[change].start} == {
            one.value for one in of_job.start
        }


@given(st.sampled_from(AttemptState), st.sampled_from(AttemptChange))
def test_a_change_of_an_attempt_that_the_table_has_not_leads_nowhere(state, change):
    step = ATTEMPT_TABLE[change]
    assert states.attempt_after(state, change) is (step.to if state in step.start else None)


@given(st.sampled_from(S), st.sampled_from(Change))
def test_a_change_that_the_table_has_not_is_refused(state, change):
    found = states.after(state, change)
    if state in TABLE[change].start:
        assert found is TABLE[change].to
    else:
        assert found is (Refusal.ALREADY_DONE if state in FINAL else Refusal.ILLEGAL)


def test_the_stages_of_an_attempt_follow_each_other_in_the_table():
    for early, late in itertools.combinations(STAGES, 2):
        assert late in NEXT[early]
        assert early not in NEXT[late]


@pytest.mark.parametrize("state", sorted(S))
def test_a_job_that_is_being_submitted_is_not_touched(state):
    job = Progress(state=S.DEFINED, attempt_nr=0, max_attempts=1, retry_all=False)
    assert states.advance(job, state, 0) is Refusal.BAD_ATTEMPT
    for change in (states.lease, states.cancel, states.abandon):
        assert change(job) is Refusal.ILLEGAL


def test_words_that_overtook_each_other_undo_nothing():
    job = Progress(state=S.HOLDING, attempt_nr=1, max_attempts=1, retry_all=False)
    for late in (S.STARTING, S.RUNNING, S.HOLDING):
        assert states.advance(job, late, 1) == job


def test_the_page_of_states_is_drawn_from_the_table():
    spec = importlib.util.spec_from_file_location("draw_states", DOCS / "draw_states.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "states.md").read_text() == module.page()
