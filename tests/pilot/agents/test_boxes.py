from __future__ import annotations

from pathlib import Path
from typing import Any

from ailurus.protocol.job import JobSpec
from pilot.agents import messages as a
from pilot.agents.boxes import Boxes
from pilot.node_ports import NOTHING, Finish, Order, TaskOutput, Written
from pilot.ports import Check, ProcessEnd, Sandbox


class Loops:
    """Begins no thread."""

    def thread(self, name: str, run: object) -> None:
        pass


class Wire:
    backlog = 0

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, *messages: Any) -> None:
        self.sent += messages


def unreadable() -> TaskOutput:
    raise RuntimeError("of ours")


def test_an_end_is_told_whatever_becomes_of_its_output():
    wire, end, wrote = Wire(), ProcessEnd(key=1), Written(b"out", 3)
    boxes = Boxes(None, wire, {}, Loops(), lambda: None)  # type: ignore[arg-type]
    boxes._done(7, Finish(end, unreadable))
    boxes._done(8, Finish(end, lambda: (wrote, NOTHING)))
    boxes.tell()
    boxes._tell()
    (told,) = wire.sent
    assert told == a.TasksOver(
        [a.TaskOver(7, end, NOTHING, NOTHING), a.TaskOver(8, end, wrote, NOTHING)]
    )


class Node:
    """Its box is given up by the pilot while it is made; `asks`: whether it looks after that."""

    def __init__(self, boxes: list[Boxes], *, asks: bool) -> None:
        self.boxes, self.asks = boxes, asks
        self.made, self.closed = False, False

    def stand(self, order: Order, check: Check) -> Any:
        self.boxes[0].close(5)
        if self.asks:
            check()
        self.made = True
        return self

    def close(self) -> None:
        self.closed = True


def stand(boxes: Boxes, own: Path) -> None:
    box = Sandbox(directory="/", tmp="/tmp", environment={}, memory_mb=1)
    order = Order(name="1.1", spec=JobSpec(name="j", command="true"), argv=(), box=box)
    message = a.Stand(5, order)
    boxes._making.add = lambda chore: chore()  # type: ignore[method-assign]
    boxes.stand(message, own)


def test_a_box_that_the_pilot_gives_up_while_it_is_made_does_not_come_to_stand(tmp_path):
    made: list[Boxes] = []
    node, wire = Node(made, asks=True), Wire()
    made.append(Boxes(node, wire, {}, Loops(), lambda: None))  # type: ignore[arg-type]
    stand(made[0], tmp_path)
    assert not node.made
    assert wire.sent[0].fault is not None


def test_nor_does_it_stay_when_that_comes_too_late(tmp_path):
    made: list[Boxes] = []
    node = Node(made, asks=False)
    made.append(Boxes(node, Wire(), {}, Loops(), lambda: None))  # type: ignore[arg-type]
    stand(made[0], tmp_path)
    assert node.closed
    assert not made[0]._standing
