"""What the tests of all programs need to throw something into a loop and to see it go on."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

from ailurus.loops import Loop


class Boom(Exception):
    pass


def named(program: ModuleType, *methods: str) -> set[str]:
    """The names that the program gives to what it has kept by these methods."""
    return {
        call.args[0].value
        for path in Path(str(program.__file__)).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in methods
        and "loops" in ast.unparse(call.func.value)
        and isinstance(call.args[0], ast.Constant)
    }


class Turns:
    """Counts the turns of each loop, and lets one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing = ""
        self.since: defaultdict[str, int] = defaultdict(int)
        original = Loop.turned
        turns = self

        def turned(loop: Loop, wait_s: float | None = 0.0) -> None:
            original(loop, wait_s)
            if turns.failing == loop.name:
                turns.failing = ""
                turns.since.clear()
                raise Boom
            turns.since[loop.name] += 1

        monkeypatch.setattr(Loop, "turned", turned)
