"""Loops that fail, end, stand still and recover; each rule without waiting for time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ailurus.logs import Log
from ailurus.loops import CALM_S, DOWN_S, LONGEST_PAUSE_S, REPEAT_S, STEP_S, Loop, Loops
from ailurus.tasks import Tasks

pytestmark = pytest.mark.field("K1")


class Time:
    """A clock that is looked at often, as a living process does."""

    def __init__(self) -> None:
        self.at = 0.0
        self.loops: Loops | None = None

    def __call__(self) -> float:
        return self.at

    def passes(self, seconds: float) -> None:
        end = self.at + seconds
        while self.at < end:
            self.at = min(self.at + 1.0, end)
            if self.loops is not None:
                self.loops.now()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def loops(time: Time) -> Loops:
    time.loops = Loops(Log("test"), clock=time)
    return time.loops


def fail(loops: Loops, loop: Loop, text: str = "no table") -> float:
    try:
        raise LookupError(text)
    except LookupError as error:
        return loops.note(loop, error)


def test_time_counts_once_where_two_threads_look_at_once():
    at = [0.0]

    def clock() -> float:
        """What the first thread reads is old before it counts, unless the second has to wait."""
        read = at[0]
        if threading.current_thread().name == "first":
            at[0] = 4.0
            second.start()
            second.join(0.05)
        return read

    loops = Loops(Log("test"), clock=clock)
    first, second = (threading.Thread(target=loops.now, name=name) for name in ("first", "second"))
    at[0] = 3.0
    first.start()
    first.join()
    second.join()
    assert loops.now() == 4.0


def test_to_ask_whether_a_loop_is_down_changes_nothing_of_it(loops, time):
    """Other threads ask, while its own may note a failure."""
    loop = loops.add("expiry")
    fail(loops, loop)
    time.passes(1)
    loop.turned()
    time.passes(CALM_S)
    before = dict(vars(loop))
    assert loops.down() == []
    assert loops.next_check_s() is None
    assert vars(loop) == before


def test_a_loop_that_fails_for_long_is_down_with_its_reason(loops, time):
    loop = loops.add("expiry")
    fail(loops, loop)
    assert loops.down() == []
    time.passes(DOWN_S)
    (down,) = loops.down()
    assert "expiry" in str(down)
    assert "no table" in str(down)
    assert loops.failures() == {"expiry": 1}


def test_a_loop_that_goes_on_is_not_down(loops, time):
    loop = loops.add("expiry")
    fail(loops, loop)
    loop.turned(None)
    time.passes(1000)
    assert loops.down() == []
    assert fail(loops, loop) == fail(loops, loops.add("fresh"))  # the pauses begin anew


def test_a_loop_that_fails_in_each_second_turn_is_down_until_it_stays_well(loops, time):
    loop = loops.add("expiry")
    for _ in range(int(DOWN_S)):
        fail(loops, loop)
        time.passes(1)
        loop.turned()
        time.passes(1)
    assert loops.down() != []
    time.passes(CALM_S)
    assert loops.down() == []


def test_pauses_grow_to_a_bound(loops):
    loop = loops.add("expiry")
    pauses = [fail(loops, loop) for _ in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 < pauses[-1] == LONGEST_PAUSE_S < CALM_S


def test_a_loop_that_stands_still_is_down_and_one_that_waits_is_not(loops, time):
    stuck = loops.add("stuck", turn_s=20)
    waits = loops.add("waits", turn_s=20)
    slow = loops.add("slow", turn_s=20)
    waits.turned(None)
    slow.turned(100)
    time.passes(40)
    assert [one.loop for one in loops.down()] == ["stuck"]
    stuck.turned()
    assert loops.down() == []


def test_a_process_that_was_stopped_stood_still_as_a_whole(loops, time):
    loops.add("stuck", turn_s=STEP_S + 1)
    time.at += 10_000
    assert loops.down() == []


def test_the_same_fault_is_logged_once_and_counted(loops, time, logged):
    loop = loops.add("expiry")
    for nr in range(50):
        fail(loops, loop, f"no table {nr}")
        time.passes(1)
    assert [line["event"] for line in logged] == ["loop_failed"]
    # With its trace.
    assert logged[0]["exc_info"]
    time.passes(REPEAT_S)
    fail(loops, loop, "no table 50")
    assert logged[-1]["event"] == "loop_still_fails"
    assert logged[-1]["times"] == 50
    fail(loops, loop, "a revoked right")
    assert logged[-1]["event"] == "loop_failed"


@pytest.mark.parametrize("fault", [LookupError, SystemExit, MemoryError, None])
def test_a_thread_is_called_again_whatever_it_raised_or_if_it_returned(fault, monkeypatch):
    monkeypatch.setattr("ailurus.loops.FIRST_PAUSE_S", 0.001)
    calls, again = [], threading.Event()
    loops = Loops(Log("test"))

    def body(loop: Loop) -> None:
        calls.append(1)
        if len(calls) == 1:
            if fault is not None:
                raise fault
            return
        again.set()

    kept = loops.thread("one", body, over=again.is_set)
    kept.join(5)
    assert again.is_set()
    assert not kept.is_alive()
    assert loops.failures() == {"one": 1}


def test_a_task_is_called_again_also_when_what_it_awaits_was_cancelled(monkeypatch):
    monkeypatch.setattr("ailurus.loops.FIRST_PAUSE_S", 0.001)

    async def main() -> dict[str, int]:
        tasks, calls, again = Tasks(Log("test")), [], asyncio.Event()

        async def body(loop: Loop) -> None:
            calls.append(1)
            if len(calls) == 1:
                gone = asyncio.get_running_loop().create_future()
                gone.cancel()
                await gone
            if len(calls) == 2:
                raise LookupError
            if len(calls) > 3:
                again.set()
                await asyncio.Event().wait()

        kept = tasks.task("one", body)
        await asyncio.wait_for(again.wait(), 5)
        await tasks.end()
        assert kept.cancelled()
        return tasks.failures()

    assert asyncio.run(main()) == {"one": 3}


def test_a_short_task_that_fails_is_counted_and_does_not_stay_down(logged):
    async def main() -> Tasks:
        time = Time()
        tasks = time.loops = Tasks(Log("test"), clock=time)

        async def short() -> None:
            raise LookupError("no row")

        await asyncio.wait({tasks.once("news", short())})
        time.passes(2 * DOWN_S)
        return tasks

    tasks = asyncio.run(main())
    assert tasks.failures() == {"news": 1}
    assert tasks.down() == []
    assert "no row" in logged[0]["why"]
