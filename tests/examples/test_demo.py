"""What the demo makes sure of before anything starts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ailurus.protocol.errors import AilurusError


def module(name: str) -> ModuleType:
    """A file of the example, which is no package."""
    file = Path(__file__).parents[2] / f"examples/z_peak/{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_of_z_peak", file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.field("H13")
@pytest.mark.parametrize(
    ("prefix", "program", "shown"),
    [
        ("/usr", "/usr/bin/python3.11", []),
        ("/home/ann/py", "/home/ann/py/bin/python3.13", ["/home/ann/py"]),
        ("/home/ann/py", "/opt/py-3.13/bin/python3", ["/home/ann/py", "/opt/py-3.13"]),
    ],
)
def test_payloads_are_shown_the_interpreter_wherever_it_lies(tmp_path, prefix, program, shown):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' {prefix} {program}\n")
    python.chmod(0o755)
    assert module("services").interpreter(python) == shown


@pytest.mark.field("H13")
def test_an_interpreter_that_does_not_run_is_said_before_anything_starts(tmp_path):
    with pytest.raises(AilurusError, match="does not run"):
        module("services").interpreter(tmp_path / "python")


@pytest.mark.field("H10")
def test_a_console_is_named_at_the_end_only_where_it_is_left_running(monkeypatch):
    # It imports the files beside it by name.
    monkeypatch.setattr(sys, "path", sys.path[:])
    demo = module("demo")
    assert "console/" not in demo.ended(12.0, None)
    assert "--keep" in demo.ended(12.0, None)
    assert "http://127.0.0.1:8080/console/" in demo.ended(12.0, "http://127.0.0.1:8080")
