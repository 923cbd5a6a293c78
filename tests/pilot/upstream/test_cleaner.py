"""The cleaner: files of attempts that do not count go, however long their storage takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ailurus.loops import Loop
from pilot.upstream.cleaner import GIVE_UP_S, Cleaner
from pilot.upstream.spool import Begun, Spool
from tests.pilot.fakes import FakeClock

ONE = (1, 1)


class Storage:
    """Removes files, but for those that it keeps; the spool knows of attempt 1.1."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.asked: list[Sequence[str]] = []
        self.keeps: set[str] = set()
        self.cleaner = Cleaner(self.delete, self.clock)
        self.journal = Spool(directory / "spool", "me").own
        self.journal.begin([Begun(job_id=1, attempt_nr=1, report_key="k")])

    def delete(self, urls: Sequence[str]) -> list[str]:
        self.asked.append(urls)
        return [url for url in urls if url in self.keeps]

    def remove(self, *urls: str, since: float = 0.0) -> None:
        self.cleaner.remove(ONE, urls, self.journal, since)

    def settled(self) -> bool:
        return self.journal.owed() == []


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def test_the_journal_forgets_an_attempt_once_its_files_are_gone(storage):
    storage.remove("a", "b")
    storage.cleaner.settle(ONE, storage.journal)
    assert not storage.settled()
    assert not storage.cleaner.idle()
    storage.cleaner.turn()
    assert storage.asked == [["a", "b"]]
    assert storage.settled()
    assert (storage.cleaner.idle(), storage.cleaner.owes()) == (True, 0)


def test_an_attempt_without_files_is_forgotten_at_once(storage):
    storage.remove()
    storage.cleaner.settle(ONE, storage.journal)
    assert storage.settled()


def test_files_may_go_before_the_verdict_comes(storage):
    storage.remove("a")
    storage.cleaner.turn()
    assert not storage.settled()
    storage.cleaner.settle(ONE, storage.journal)
    assert storage.settled()


def test_what_is_left_is_tried_again_after_pauses_that_grow_and_holds_up_no_end(storage):
    storage.keeps = {"b"}
    storage.remove("a", "b")
    storage.cleaner.settle(ONE, storage.journal)
    storage.cleaner.turn()
    pauses = []
    for _ in range(4):
        assert storage.cleaner.idle()
        pauses.append(storage.cleaner._due_in())
        storage.cleaner.turn()
        storage.clock.forward(pauses[-1])
        storage.cleaner.turn()
    assert pauses[-1] > pauses[0] > 0
    assert storage.asked == [["a", "b"], *[["b"]] * 4]
    assert not storage.settled()
    storage.keeps.clear()
    storage.clock.forward(storage.cleaner._due_in())
    storage.cleaner.turn()
    assert storage.settled()


def test_files_that_come_while_others_wait_are_tried_at_once(storage):
    storage.keeps = {"a"}
    storage.remove("a")
    storage.cleaner.turn()
    storage.remove("b")
    assert storage.cleaner._due_in() == 0
    storage.cleaner.turn()
    assert storage.asked == [["a"], ["a", "b"]]


def test_after_a_week_it_is_a_persons_turn(storage, logged):
    storage.keeps = {"a"}
    storage.remove("a", since=storage.clock.time() - GIVE_UP_S)
    storage.cleaner.settle(ONE, storage.journal)
    storage.cleaner.turn()
    assert storage.settled()
    assert "files_given_up" in [line["event"] for line in logged]


def test_a_storage_that_answers_after_the_pilot_has_closed_settles_nothing(storage):
    storage.remove("a")
    storage.cleaner.settle(ONE, storage.journal)
    storage.cleaner._delete = lambda urls: storage.cleaner.close() or []  # type: ignore[func-returns-value]
    storage.cleaner.turn()
    assert not storage.settled()


def test_its_thread_sleeps_until_something_is_to_be_removed_and_ends_with_close(storage):
    turns = 0

    def done() -> None:
        nonlocal turns
        turns += 1
        storage.cleaner.close()

    storage.clock.while_waiting = lambda: storage.remove("a")
    storage.cleaner.run(Loop("cleaner", None, lambda: storage.clock.now), done)
    assert (turns, storage.clock.waits) == (1, [None])


def test_its_thread_looks_for_dead_pilots_as_often_as_the_look_asks_for(storage):
    looks = []

    def look() -> float:
        looks.append(storage.clock.now)
        if len(looks) == 2:
            storage.cleaner.close()
        return 300.0

    began = storage.clock.now
    storage.cleaner.look_out(look, 60.0)
    storage.cleaner.run(Loop("cleaner", None, lambda: storage.clock.now), lambda: None)
    assert looks == [began + 60.0, began + 360.0]
