"""The same thing on several nodes at once."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from ailurus.protocol.errors import Code
from pilot.node.at_once import MOST, on_all
from pilot.ports import Check, JobError


def test_it_is_done_on_all_nodes_at_once_and_comes_in_their_order() -> None:
    together = threading.Barrier(4, timeout=10)

    def there(number: int, _: Check) -> int | None:
        together.wait()
        return number or None

    found = on_all([partial(there, number) for number in range(4)], lambda: None)
    assert found == [None, 1, 2, 3]


def test_no_more_than_a_few_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def there(_: Check) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    on_all([there] * 5 * MOST, lambda: None)
    assert 1 < most <= MOST


def test_the_first_error_is_raised_and_ends_the_others() -> None:
    ended = threading.Event()
    waits = threading.Event()

    def fails(_: Check) -> None:
        assert waits.wait(10)
        raise JobError(Code.CONTAINER_FAILED, "no image there")

    def waiting(check: Check) -> None:
        waits.set()
        try:
            while not ended.wait(0.005):
                check()
        except JobError:
            ended.set()
            raise

    with pytest.raises(JobError, match="no image there"):
        on_all([waiting, fails], lambda: None)
    assert ended.is_set()


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_job_that_is_stopped_waits_for_no_node(nodes: int) -> None:
    def stopped() -> None:
        raise JobError(Code.KILLED_BY_SERVER, "stop")

    with pytest.raises(JobError, match="stop"):
        on_all([lambda check: check()] * nodes, stopped)
