"""Many processes of a payload where each has a box of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.blame import GUARDIAN_DIED
from pilot.node.each import EachItsOwn
from pilot.node_ports import Exit, Explanation, Finish, Order, Task
from pilot.ports import JobError, ProcessEnd, Sandbox


def each(tmp_path: Path, start: Callable[[Order, Callable[[Exit], None]], int]) -> EachItsOwn:
    box = Sandbox(directory="/", tmp="/tmp", environment={}, memory_mb=1, own=str(tmp_path))
    order = Order(name="1.1", spec=JobSpec(name="job", command="x"), argv=(), box=box)
    node: Any = SimpleNamespace(name="n1", start=start)
    return EachItsOwn(node, order)


def task(seat: int) -> Task:
    return Task(argv=["/bin/true"], environment={"AILURUS_ITEM": str(seat)}, seat=seat)


def test_what_the_container_of_one_reads_at_its_start_is_not_anothers(tmp_path: Path) -> None:
    started: list[tuple[Order, Callable[[Exit], None]]] = []

    def start(order: Order, done: Callable[[Exit], None]) -> int:
        Path(order.box.own, "start").write_text(order.box.environment["AILURUS_ITEM"], "utf-8")
        started.append((order, done))
        return len(started)

    ends: list[Finish] = []
    made = each(tmp_path, start)
    assert made.start_all([(task(1), ends.append), (task(2), ends.append)]) == [1, 2]
    assert [Path(one.box.own, "start").read_text("utf-8") for one, _ in started] == ["1", "2"]
    for order, done in started:
        Path(order.stdout).write_text("said\n", "utf-8")
        done(Exit(ProcessEnd(key=1), Explanation))
    assert [one.take()[0].data for one in ends] == [b"said\n"] * 2
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_one_for_which_there_can_be_no_box_ends_and_keeps_no_other_from_starting(
    tmp_path: Path,
) -> None:
    def start(order: Order, done: Callable[[Exit], None]) -> int:
        if order.box.environment["AILURUS_ITEM"] == "1":
            raise JobError(Code.CONTAINER_FAILED, "no image")
        return 7

    ends: list[Finish] = []
    made = each(tmp_path, start)
    assert made.start_all([(task(1), ends.append), (task(2), ends.append)]) == [0, 7]
    (end,) = ends
    assert (end.process.errno, end.process.before) == (GUARDIAN_DIED, True)
