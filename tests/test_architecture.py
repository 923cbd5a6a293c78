"""docs/architecture.md names what is there, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("ailurus", "dispatcher", "harvester_edge", "pilot", "plugins")


def test_the_architecture_page_names_only_files_that_exist():
    page = (ROOT / "docs/architecture.md").read_text()
    folders = (*PROGRAMS, "docs", "examples", "tests")
    known = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    named = set(re.findall(r"`([\w/]+\.py)", page))
    assert named
    gone = {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in known)}
    kinds = ("batch", "catalogue", "container", "data", "launch", "node")
    blanks = {"PROGRAM/cli/NAME.py", "PROGRAM/cli/__init__.py"}
    blanks |= {f"plugins/{kind}/NAME.py" for kind in kinds}
    assert gone == blanks


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_architecture_page_says_what_each_room_is_for(program):
    page = (ROOT / "docs/architecture.md").read_text()
    (table,) = re.findall(rf"^\| `{program}/` \| what.*?(?=\n\n)", page, re.MULTILINE | re.DOTALL)
    levels = ("*", "*/*") if program == "plugins" else ("*",)
    rooms = {
        room.name
        for level in levels
        for room in (ROOT / program).glob(level)
        if not room.name.startswith("__")
        and (room.suffix == ".py" or (room.is_dir() and any(room.glob("*"))))
    }
    named = {name.rstrip("/") for name in re.findall(r"`([\w./]+)`", table)}
    assert rooms - named - {"__main__.py"} == set()
