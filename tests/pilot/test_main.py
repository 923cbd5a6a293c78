"""The program's first lines: the guardian comes before all else."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ailurus import entry
from pilot import __main__ as program
from pilot.process import spawner
from pilot.serve import HANDLED_SIGNALS


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(entry, "prepare", lambda: None)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    gc.enable()


def test_the_guardian_is_forked_before_signals_are_blocked_and_is_closed_at_the_end(monkeypatch):
    order: list[str] = []
    guardian = SimpleNamespace(close=lambda: order.append("closed"))
    monkeypatch.setattr(spawner, "start", lambda: order.append("forked") or guardian)

    def main(given: object) -> int:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        order.append("blocked" if HANDLED_SIGNALS - {signal.SIGHUP} <= blocked else "open")
        raise KeyError

    monkeypatch.setattr(program, "_main", main)
    monkeypatch.setattr("sys.argv", ["pilot", "-q", "q"])
    with pytest.raises(KeyError):
        program.main()
    assert order == ["forked", "blocked", "closed"]


def test_a_node_that_lets_no_guardian_start_is_named(monkeypatch, capsys):
    def fails() -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(spawner, "start", fails)
    monkeypatch.setattr("sys.argv", ["pilot", "-q", "q"])
    assert program.main() == 65
    assert "the pilot cannot start its guardian" in capsys.readouterr().err


def test_help_needs_no_guardian(monkeypatch, capsys):
    monkeypatch.setattr(spawner, "start", lambda: pytest.fail("no guardian"))
    monkeypatch.setattr("sys.argv", ["pilot", "--help"])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 0
    assert "exit codes:" in capsys.readouterr().out
