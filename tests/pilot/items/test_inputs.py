"""When inputs of single items are brought, shared and removed."""

from __future__ import annotations

from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import InputFile
from pilot.items.inputs import Brought, HasInputs, ItemInputs, refusal
from pilot.items.item import Item
from pilot.items.run import _Run
from pilot.ports import JobError
from tests.pilot.attempts import attempt_of


class Bench:
    """Inputs that come when the test takes the news of them."""

    def __init__(self, ahead: int = 2) -> None:
        self.asked: SimpleQueue[str] = SimpleQueue()
        self.told: SimpleQueue[Brought] = SimpleQueue()
        self.removed: list[str] = []
        self.fails = ""
        self.inputs = ItemInputs(self._bring, self.removed.append, self.told.put, ahead)

    def _bring(self, file: InputFile) -> None:
        self.asked.put(file.name)
        if file.name == self.fails:
            raise JobError(Code.NO_SUCH_FILE, "not there")

    def want(self, index: int, *names: str, url: str = "file:///") -> tuple[Item, list[HasInputs]]:
        files = tuple(InputFile(name=name, url=f"{url}{name}") for name in names)
        item = Item(m.ItemLease(index=index, attempt=1, spec=ItemSpec(inputs=files)))
        self.inputs.want(item)
        return item, [*self.inputs.turn()]

    def news(self) -> list[HasInputs]:
        return [*self.inputs.brought(self.told.get(timeout=10)), *self.inputs.turn()]


def test_an_item_begins_when_all_its_inputs_are_there() -> None:
    bench = Bench()
    item, ready = bench.want(0, "a", "b")
    assert ready == []
    assert bench.news() == []
    assert bench.news() == [HasInputs(item)]


def test_what_several_name_is_brought_once_and_stays_while_one_of_them_is_here() -> None:
    bench = Bench()
    first, _ = bench.want(0, "a")
    second, _ = bench.want(1, "a")
    assert bench.news() in (
        [HasInputs(first), HasInputs(second)],
        [HasInputs(second), HasInputs(first)],
    )
    assert bench.asked.qsize() == 1
    bench.inputs.over(first)
    assert bench.removed == []
    bench.inputs.over(second)
    assert bench.removed == ["a"]


def test_no_more_are_brought_ahead_than_may_begin_soon() -> None:
    bench = Bench(ahead=1)
    first, _ = bench.want(0, "a")
    second, _ = bench.want(1, "b")
    bench.news()
    assert bench.asked.qsize() == 1
    bench.inputs.begun(first)
    assert [*bench.inputs.turn()] == []
    assert bench.news() == [HasInputs(second)]


def test_one_that_never_begins_keeps_its_turn_from_nobody() -> None:
    bench = Bench(ahead=1)
    first, _ = bench.want(0, "a")
    second, _ = bench.want(1, "b")
    assert bench.news() == [HasInputs(first)]
    bench.inputs.over(first)
    assert [*bench.inputs.turn()] == []
    assert bench.news() == [HasInputs(second)]


def test_all_that_wait_for_what_cannot_come_are_told_and_others_have_their_turn() -> None:
    bench = Bench(ahead=2)
    bench.fails = "a"
    first, _ = bench.want(0, "a")
    second, _ = bench.want(1, "a")
    third, _ = bench.want(2, "b")
    told = bench.news()
    assert {(one.item, one.error and one.error.code) for one in told} == {
        (first, Code.NO_SUCH_FILE), (second, Code.NO_SUCH_FILE),
    }  # fmt: skip
    assert bench.news() == [HasInputs(third)]


def test_two_inputs_of_one_name_come_after_each_other_and_let_others_pass() -> None:
    bench = Bench()
    first, _ = bench.want(0, "a")
    bench.news()
    bench.inputs.begun(first)
    second, told = bench.want(1, "a", url="file:///other/")
    assert told == []
    third, _ = bench.want(2, "b")
    assert bench.news() == [HasInputs(third)]
    bench.inputs.over(first)
    assert bench.removed == ["a"]
    assert [*bench.inputs.turn()] == []
    assert bench.news() == [HasInputs(second)]


def test_what_nobody_needs_any_more_when_it_comes_is_removed() -> None:
    bench = Bench()
    item, _ = bench.want(0, "a")
    bench.inputs.over(item)
    assert bench.news() == []
    assert bench.removed == ["a"]
    bench.inputs.close()


def test_archives_are_no_inputs_of_single_items() -> None:
    archive = InputFile(name="a.tar", url="file:///a.tar", unpack=True)
    assert refusal((archive,)) is not None


@pytest.mark.parametrize("stopped", [False, True], ids=["asked to end", "stopped"])
def test_inputs_come_until_their_job_is_stopped(stopped: bool) -> None:
    """A job that gets TERM alone goes on with the items that wait."""
    attempt = attempt_of("true")
    run: Any = SimpleNamespace(
        _attempt=attempt, _transfers=attempt.beside(), _running=[], _inbox=SimpleQueue()
    )
    run.signal = lambda number: _Run.signal(run, number)
    attempt.start_payload(lambda: run)
    if stopped:
        attempt.stop(JobError(Code.KILLED_BY_SERVER, "killed"), grace_s=10)
    else:
        attempt.terminate()
    assert (run._transfers.stopped is not None) == stopped
