"""The life of an item: what one table allows, whatever is reported in whatever order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.item import (
    FINAL_ITEM,
    MOST_LOST,
    ItemOutcome,
    ItemProgress,
    ItemState,
    conclude_item,
    lease_item,
    run_item,
)
from ailurus.protocol.payloads import Goal, Payloads, needed
from ailurus.protocol.states import Refusal
from ailurus.protocol.submission import jobs_from

O = ItemOutcome  # noqa: E741
WAITS = ItemProgress()


def leased(item: ItemProgress = WAITS) -> ItemProgress:
    after = lease_item(item)
    assert isinstance(after, ItemProgress)
    return after


def ended(
    item: ItemProgress, outcome: ItemOutcome, tries: int | None = None, *, transient: bool = False
) -> ItemProgress:
    after = conclude_item(item, outcome, item.attempt, transient=transient, tries=tries)
    assert isinstance(after, ItemProgress)
    return after


def test_a_failure_of_the_payload_itself_is_the_end() -> None:
    assert ended(leased(), O.FAILED).state is ItemState.FAILED


def test_a_failure_that_may_pass_is_tried_three_times() -> None:
    item, tried = WAITS, 0
    while item.state not in FINAL_ITEM:
        item, tried = ended(leased(item), O.FAILED, transient=True), tried + 1
    assert (item.state, tried) == (ItemState.FAILED, 3)


def test_whoever_says_how_often_has_every_failure_tried_again() -> None:
    item = ended(leased(), O.FAILED, tries=2)
    assert item.state is ItemState.WAITING
    assert ended(leased(item), O.FAILED, tries=2).state is ItemState.FAILED


def test_a_lost_node_is_not_held_against_an_item_until_it_is_a_habit() -> None:
    item = WAITS
    for _ in range(MOST_LOST):
        item = ended(leased(item), O.LOST, tries=1)
        assert item.state is ItemState.WAITING
    assert ended(leased(item), O.LOST, tries=1).state is ItemState.FAILED


def test_the_first_attempt_that_finished_wins_also_one_given_up() -> None:
    item = leased(ended(leased(), O.LOST))
    late = conclude_item(item, O.FINISHED, 1, transient=False, tries=None)
    assert isinstance(late, ItemProgress)
    assert late.state is ItemState.FINISHED
    again = conclude_item(late, O.FINISHED, 2, transient=False, tries=None)
    assert again is Refusal.ALREADY_DONE


def test_a_failure_of_an_attempt_given_up_counts_for_nothing() -> None:
    item = leased(ended(leased(), O.RETURNED))
    assert conclude_item(item, O.FAILED, 1, transient=False, tries=None) is Refusal.BAD_ATTEMPT


def test_that_an_item_runs_changes_nothing_when_it_has_ended() -> None:
    assert run_item(ended(leased(), O.FINISHED), 1) is Refusal.ALREADY_DONE


REPORTS = st.lists(st.tuples(st.sampled_from(O), st.integers(0, 6), st.booleans()), max_size=30)


@given(REPORTS, st.none() | st.integers(1, 4))
def test_whatever_is_reported_an_item_ends_at_most_once(
    reports: list[tuple[ItemOutcome, int, bool]], tries: int | None
) -> None:
    item, ends = WAITS, 0
    for outcome, attempt, transient in reports:
        again = lease_item(item)
        before = item if isinstance(again, Refusal) else again
        after = conclude_item(before, outcome, attempt, transient=transient, tries=tries)
        item = before if isinstance(after, Refusal) else after
        if before.state not in FINAL_ITEM and item.state in FINAL_ITEM:
            ends += 1
        if before.state in FINAL_ITEM:
            assert item == before
    assert ends <= 1


@pytest.mark.parametrize(
    ("goal", "count", "wanted"),
    [("all", 7, 7), ("95%", 20, 19), ("95%", 21, 20), ("99.5%", 1000, 995), ("3", 7, 3),
     ("0%", 7, 0), ("100%", 7, 7)],
)  # fmt: skip
def test_a_goal_is_all_a_share_rounded_up_or_a_number(goal: str, count: int, wanted: int) -> None:
    assert needed(goal, count) == wanted


def test_no_goal_is_beyond_what_there_is() -> None:
    with pytest.raises(AilurusError, match="and there are 7"):
        needed("8", 7)


@pytest.mark.parametrize("goal", ["100.1%", "101%", "0", "-1", "95 %", "", "1e3"])
def test_what_is_no_goal_is_refused(goal: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(goal, Goal)


def test_a_goal_may_be_written_as_the_number_that_it_is() -> None:
    tree = {"name": "x", "queue": "q", "command": "x", "goal": 3, "payloads": 1}
    (job,) = jobs_from(tree, payloads=lambda *_: Payloads(list="l", count=3))
    assert job.goal == "3"
