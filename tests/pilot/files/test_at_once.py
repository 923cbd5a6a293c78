"""Files go one by one while that is quick, else several at a time; a failure ends them all."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pilot.files.at_once import SLOW_IN_A_ROW, SLOW_S, AnotherFailed, at_once
from tests.pilot.fakes import FakeClock


def test_quick_ones_stay_in_the_callers_thread():
    by: set[Any] = set()
    at_once(range(9), lambda _, check: by.add(threading.current_thread()), 4, clock=FakeClock())
    assert by == {threading.current_thread()}


@pytest.mark.parametrize("slow", [True, False])
def test_slow_ones_go_in_as_many_threads_as_may_be(slow):
    clock, by = FakeClock(), set()
    barrier = threading.Barrier(4)

    def act(item: int, check: Any) -> None:
        clock.forward(2 * SLOW_S)
        by.add(threading.current_thread())
        if slow or item >= SLOW_IN_A_ROW:
            barrier.wait(5)

    at_once(range(8 if slow else 8 + SLOW_IN_A_ROW), act, 4, slow=slow, clock=clock)
    assert len(by) == 4


def test_now_and_then_a_slow_one_makes_no_threads():
    clock, by = FakeClock(), set()

    def act(item: int, check: Any) -> None:
        clock.forward(2 * SLOW_S if item % 2 else 0)
        by.add(threading.current_thread())

    at_once(range(9), act, 4, clock=clock)
    assert by == {threading.current_thread()}


def test_the_first_failure_ends_those_under_way_and_is_told():
    ended: list[int] = []
    both = threading.Barrier(2)

    def act(item: int, check: Any) -> None:
        both.wait(5)
        if item == 0:
            raise ValueError("first")
        try:
            while True:
                check()
        except AnotherFailed:
            ended.append(item)
            raise

    with pytest.raises(ValueError, match="first"):
        at_once(range(9), act, 2, slow=True)
    assert ended == [1]


def test_nothing_is_done_for_nothing():
    done: list[object] = []
    before = threading.active_count()
    at_once([], lambda item, check: done.append(item), 4, slow=True)
    assert not done
    assert threading.active_count() == before


def test_a_node_without_threads_moves_them_all_the_same(monkeypatch):
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    done: list[int] = []
    at_once(range(9), lambda item, check: done.append(item), 4, slow=True)
    assert done == list(range(9))
