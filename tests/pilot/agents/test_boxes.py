from __future__ import annotations

from typing import Any

from pilot.agents import messages as a
from pilot.agents.boxes import Boxes
from pilot.node_ports import NOTHING, Finish, TaskOutput, Written
from pilot.ports import ProcessEnd


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
