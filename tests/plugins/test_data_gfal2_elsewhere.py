"""gfal2's module of another Python, by a process of that Python: here of one that has a made-up
module. The real one is tried in tests/real/test_movers.py."""

from __future__ import annotations

import errno
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.data.gfal2_elsewhere import Context, Elsewhere, GError, module

MODULE = """
import os
from types import SimpleNamespace

class GError(Exception):
    def __init__(self, message, code):
        self.message, self.code = message, code

class Directory:
    left = [("a", 0o100644, 3), ("b", 0o040755, 0)]
    def readpp(self):
        if not self.left:
            return None, None
        name, mode, size = self.left.pop(0)
        return SimpleNamespace(d_name=name), SimpleNamespace(st_mode=mode, st_size=size)

class Context:
    token = ""
    def transfer_parameters(self):
        return SimpleNamespace()
    def filecopy(self, parameters, source, target):
        parameters.event_callback(SimpleNamespace(stage="TRANSFER_ENTER"))
        parameters.monitor_callback(source, target, 1, 1, 42, 1)
        if not parameters.overwrite:
            raise GError("it is there: \\xe9", 17)
    def checksum(self, url, kind):
        return "%s of %s by %s" % (kind, url, self.token)
    def stat(self, url):
        print("a word of a library")
        os.write(1, b"and one more\\n")
        return SimpleNamespace(st_mode=0o100644, st_size=7)
    def opendir(self, url):
        return Directory()
    def unlink(self, url):
        os._exit(9)

def creat_context():
    return Context()

def cred_new(kind, value):
    return kind + " " + value

def cred_set(context, server, credential):
    context.token = credential
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Another Python, with that module."""
    (tmp_path / "gfal2.py").write_text(MODULE)
    made = tmp_path / "python"
    made.write_text(
        f'#!/bin/sh\n[ "$1" = -I ] && shift\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n'
    )
    made.chmod(0o755)
    return made


@pytest.fixture
def gfal2(python: Path) -> Any:
    return module(str(python))


@pytest.fixture
def context(gfal2: Any) -> Iterator[Any]:
    made = gfal2.creat_context()
    yield made
    made.close()


def test_a_python_without_it_is_no_way_to_it() -> None:
    for other in (sys.executable, "/no/such/python"):
        with pytest.raises(ImportError, match="does not import gfal2"):
            module(other)


def test_a_python_of_the_system_has_it_where_ours_does_not(python, monkeypatch) -> None:
    monkeypatch.setattr("plugins.data.gfal2_elsewhere.USUAL", ("/no/such/python", str(python)))
    monkeypatch.setattr("plugins.data.moving._SYSTEM", ())
    monkeypatch.setitem(sys.modules, "gfal2", None)
    assert isinstance(module(""), Elsewhere)


def test_its_answers_are_those_of_the_module(gfal2, context) -> None:
    gfal2.cred_set(context, "davs://h", gfal2.cred_new("BEARER", "t0ken"))
    assert context.checksum("davs://h/x", "adler32") == "adler32 of davs://h/x by BEARER t0ken"
    assert context.stat("davs://h/x").st_size == 7
    directory = context.opendir("davs://h/d")
    entry, found = directory.readpp()
    assert (entry.d_name, stat.S_ISREG(found.st_mode), found.st_size) == ("a", True, 3)
    assert stat.S_ISDIR(directory.readpp()[1].st_mode)
    assert directory.readpp() == (None, None)


def test_a_copy_tells_of_its_way_and_its_end(context) -> None:
    seen: list[Any] = []
    parameters = context.transfer_parameters()
    parameters.monitor_callback = lambda *told: seen.append(told[4])
    parameters.event_callback = lambda event: seen.append(event.stage)
    parameters.overwrite = True
    context.filecopy(parameters, "file:///a", "davs://h/a")
    assert seen == ["TRANSFER_ENTER", 42]
    parameters.overwrite = False
    with pytest.raises(GError) as raised:
        context.filecopy(parameters, "file:///a", "davs://h/a")
    assert (raised.value.code, raised.value.message) == (errno.EEXIST, "it is there: é")


def test_a_process_that_dies_costs_one_call(context) -> None:
    with pytest.raises(GError) as raised:
        context.unlink("davs://h/x")
    assert raised.value.code == errno.ECONNABORTED
    assert context.stat("davs://h/x").st_size == 7


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "5",
        "[" * 100_000,
        '{"value": "seven"}',
        '{"value": [1]}',
        '{"value": [33188, -1]}',
        '{"value": [33188, 9223372036854775808]}',
        '{"error": null}',
        '{"error": ["2", "no"]}',
        '{"error": [2]}',
        '{"bytes": "many"}',
        '{"bytes": -1}',
        '{"stage": {}}',
        "x" * 2000,
    ],
)
def test_a_process_that_says_nonsense_is_ended_and_costs_one_call(line, monkeypatch) -> None:
    monkeypatch.setattr("plugins.data.gfal2_elsewhere.LONGEST", 200_000 if "[[" in line else 1000)
    context = Context((sys.executable, "-c", f"print({line!r}); input(); input()"))
    with pytest.raises(GError, match="not understood") as raised:
        context.stat("davs://h/x")
    assert raised.value.code == errno.EBADMSG
    assert len(raised.value.message) < 1000
    assert context._process is None
