"""What an item runs as, when more are asked for, and what is left of ends that nobody was told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.item import TOGETHER, ItemOutcome, ItemSpec
from ailurus.protocol.resources import Resources
from pilot.items import command
from pilot.items import live as live_logs
from pilot.items.item import Item, judged, told_end
from pilot.items.lease import LAST_NEWS, Ledger
from pilot.items.live import Live
from pilot.node_ports import NOTHING, MemoryLoss, TaskOutput, Written
from pilot.ports import ProcessEnd
from pilot.upstream import untold
from pilot.upstream.untold import Untold
from tests.pilot.attempts import attempt_of


def end(index: int) -> m.ItemEnd:
    return m.ItemEnd(index=index, attempt=1, outcome=ItemOutcome.FINISHED)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/bin/true", ["/bin/true"]),
        ("./fit --seed=3  a/b", ["./fit", "--seed=3", "a/b"]),
        ("true", ["/bin/sh", "-c", "true"]),
        ("/bin/ls *", ["/bin/sh", "-c", "/bin/ls *"]),
        ("A=/b /bin/true", ["/bin/sh", "-c", "A=/b /bin/true"]),
        ("/bin/true\n/bin/false", ["/bin/sh", "-c", "/bin/true\n/bin/false"]),
    ],
)
def test_only_what_a_shell_would_change_goes_to_one(line: str, words: list[str]) -> None:
    assert command.argv(ItemSpec(command=line), "", ()) == words


def test_arguments_are_added_as_they_stand() -> None:
    item = ItemSpec(arguments=("a b", "$(x)"))
    assert command.argv(item, "run it", ()) == [
        "/bin/sh", "-c", 'run it "$@"', "sh", "a b", "$(x)",
    ]  # fmt: skip
    assert command.argv(item, "/run it", ()) == ["/run", "it", "a b", "$(x)"]
    assert command.argv(item, "", ["/bin/sh", "script"]) == ["/bin/sh", "script", "a b", "$(x)"]


def test_an_item_takes_its_share_of_the_jobs_memory_unless_it_says() -> None:
    job = Resources(cores=8, memory_mb=1600)
    assert command.need(ItemSpec(cores=2), job).memory_mb == 400
    assert command.need(ItemSpec(memory_mb=7), job).memory_mb == 7


def test_a_few_are_leased_at_first_and_then_as_many_as_one_request_may() -> None:
    ledger = Ledger((1, 1), Untold(None), 4)
    assert ledger.due(0, 0, 0.0, 10.0)
    assert ledger.request(0, (), 0.0).count == 8
    assert not ledger.due(0, 0, 0.0, 10.0)
    ledger.answered(m.ItemsAnswer(waiting=5000))
    assert ledger.request(8, (), 0.0).count == TOGETHER - 8


def test_when_all_are_here_news_waits_for_the_heartbeat_or_the_last_end() -> None:
    ledger = Ledger((1, 1), Untold(None), 4)
    ledger.request(0, (), 0.0)
    ledger.answered(m.ItemsAnswer(waiting=0))
    ledger.untold.add([end(1)])
    assert not ledger.due(3, 1, 5.0, 10.0)
    assert ledger.due(3, 1, 10.0, 10.0)
    assert ledger.due(0, 0, 5.0, 10.0)
    assert ledger.request(0, (), 5.0).ended == (end(1),)
    ledger.answered(m.ItemsAnswer(settled=True))
    assert not ledger.untold
    assert not ledger.due(0, 0, 99.0, 10.0)


def test_many_ends_are_told_while_the_last_items_run_and_not_while_more_wait() -> None:
    ledger = Ledger((1, 1), Untold(None), 4)
    ledger.request(0, (), 0.0)
    ledger.answered(m.ItemsAnswer(waiting=1))
    ledger.untold.add([end(index) for index in range(LAST_NEWS)])
    assert not ledger.due(1000, 4, 1.0, 10.0)
    ledger.request(0, (), 1.0)
    ledger.answered(m.ItemsAnswer(waiting=0))
    ledger.untold.add([end(index) for index in range(LAST_NEWS - 1)])
    assert not ledger.due(1000, 4, 2.0, 10.0)
    ledger.untold.add([end(LAST_NEWS)])
    assert ledger.due(1000, 4, 2.0, 10.0)


def test_what_was_not_told_is_found_by_the_next_pilot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untold, "LONG_BYTES", 300)
    path = tmp_path / "x.items"
    ends = Untold(path)
    for index in range(10):
        ends.add([end(index), end(index + 100)])
    ends.told(18)
    ends.add([end(77)])
    assert ends.first() == (end(9), end(109), end(77))
    with path.open("ab") as file:
        file.write(b'[{"torn')
    assert untold.left_by(path) == ends.first()
    assert [one.name for one in tmp_path.iterdir()] == ["x.items"]
    ends.close(remove=True)
    assert untold.left_by(path) == ()


def test_half_a_line_on_a_full_disk_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.items"
    ends = Untold(path)
    ends.add([end(1)])
    whole = os.write
    with monkeypatch.context() as full:
        full.setattr(untold.os, "write", lambda fd, data: whole(fd, data[:5]))
        ends.add([end(2)])
    ends.add([end(3)])
    assert untold.left_by(path) == (end(1), end(3))
    assert ends.first() == (end(1), end(2), end(3))


def lively(after_s: float = 10.0) -> Live:
    return Live(attempt_of(), lambda _: True, after_s)


def item(index: int, began: float = 0.0) -> Item:
    return Item(m.ItemLease(index=index, attempt=1, spec=ItemSpec()), began=began)


def output(data: bytes, size: int) -> TaskOutput:
    return Written(data, size), NOTHING


def test_only_long_items_are_looked_at_and_each_in_its_turn() -> None:
    live = lively()
    items = [item(index) for index in range(live_logs.TOGETHER + 1)]
    young = item(99, began=5.0)
    first = live.due([*items, young], 11.0)
    assert live.due(items, 11.5) == []
    second = live.due([*items, young], 12.0)
    assert {one.lease.index for one in [*first, second[0]]} == set(range(live_logs.TOGETHER + 1))
    assert young not in second
    unwatched = Live(attempt_of(), lambda _: False, 1.0)
    assert unwatched.due(items, 99.0) == []


def test_what_is_shown_of_an_item_is_in_order_once_and_bounded() -> None:
    live, one = lively(), item(3)
    live.seen(one, (0, 0), output("aé".encode()[:2], 2))
    live.seen(one, (0, 0), output(b"a", 1))
    live.seen(one, (1, 0), output("é".encode(), 3))
    sent = live.take()
    assert sent is not None
    assert [(piece.item, piece.offset, piece.text) for piece in sent.pieces] == [
        (3, 0, "a"), (3, 1, "é"),
    ]  # fmt: skip
    one.shown = (live_logs.SHOWN_BYTES, live_logs.SHOWN_BYTES)
    assert live.due([one], 99.0) == []
    live.ended(one, output(b"x" * 400_000, 900_000))
    sent = live.take()
    assert sent is not None
    (last,) = sent.pieces
    assert (last.offset + len(last.text), last.final) == (900_000, True)
    assert len(last.text) <= live_logs.FINAL_BYTES


def test_of_an_item_that_was_not_shown_no_end_is_sent() -> None:
    live = lively()
    live.ended(item(3), output(b"all of it", 9))
    assert live.take() is None


def test_the_end_of_an_item_tells_what_would_help() -> None:
    item = Item(m.ItemLease(index=0, attempt=1, spec=ItemSpec(memory_mb=60)))
    killed = ProcessEnd(key=1, exit_code=-9, at=1.0)
    outcome, error = judged(item, killed, MemoryLoss(303 << 10), stopped=False)
    told = told_end(item, outcome, error, killed, 2.0, ("", ""))
    assert told.diagnosis == (
        "it used 303 MB of memory, it asked for 60 MB (give it more `memory`)"
    )
