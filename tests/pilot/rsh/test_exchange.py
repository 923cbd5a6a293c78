"""The nodes of a payload that come and go under its commands."""

from __future__ import annotations

import signal

from pilot.rsh.exchange import Asked, Exchange, Finished, Told


class Command:
    def __init__(self) -> None:
        self.signals: list[int] = []

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def taken(self, stream: int, count: int) -> None:
        """Nothing is written."""


def test_what_a_lost_node_had_asked_for_ends_and_nothing_starts_there() -> None:
    started: dict[str, Command] = {}

    def start(node: str, *_: object) -> Command:
        started[node] = Command()
        return started[node]

    told: list[Told] = []
    exchange = Exchange(["n1", "n2", "n3"], start)
    exchange.said("n1", Asked(1, "n2", b"a"), told.append)
    exchange.said("n3", Asked(1, "n1", b"b"), told.append)
    exchange.go("n3")
    assert started["n2"].signals == []
    assert started["n1"].signals == [signal.SIGKILL]
    exchange.said("n1", Asked(2, "n3", b"c"), told.append)
    assert told == [Finished(2, 255, "no node of this job is called 'n3': it has n1, n2")]
    exchange.come("n3")
    exchange.said("n1", Asked(3, "n3", b"c"), told.append)
    assert "n3" in started
