"""What fails where files and images come from says what helps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("pilot/files", "plugins/data", "plugins/container")


def without_remedy(code: str) -> Iterator[int]:
    """The lines that make a JobError without a remedy."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = {keyword.arg for keyword in node.keywords}
            if node.func.id == "JobError" and "remedy" not in named:
                yield node.lineno


def test_a_failure_without_a_remedy_is_found():
    assert list(without_remedy("JobError(code, 'x', remedy='y')\nJobError(code, 'x')")) == [2]


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_job_fails_with_says_what_helps(room):
    paths = sorted(ROOT.joinpath(room).glob("*.py"))
    assert paths
    bare = {path.name: [*without_remedy(path.read_text("utf-8"))] for path in paths}
    assert {name: lines for name, lines in bare.items() if lines} == {}
