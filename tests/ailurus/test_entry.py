"""What every program does first: descriptors and UTF-8, whoever started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ailurus import entry

LEGACY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python in a locale that is not UTF-8, on a machine that has none of those."""
LOOK = """
import os, sys
from ailurus import entry
entry.prepare()
import json
told = {
    "utf8": sys.getfilesystemencoding() + sys.stdout.encoding,
    "words": sys.argv[1:],
    "fds": [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)],
}
sys.stderr.write("said\\n")
print("printed")
open(os.environ["ANSWER"], "w").write(json.dumps(told))
"""


def look(tmp_path: Path, *words: str, closed: str = "", **environment: str) -> dict[str, object]:
    answer = tmp_path / "answer"
    command = [sys.executable, "-c", LOOK, *words]
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "ANSWER": str(answer), **environment}
    subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command],
        env=env,
        check=True,
        capture_output=True,
        timeout=30,
    )
    told: dict[str, object] = json.loads(answer.read_text("utf-8"))
    return told


@pytest.mark.field("L7")
def test_a_program_reads_and_writes_utf8_in_a_locale_that_does_not(tmp_path: Path) -> None:
    told = look(tmp_path, "€é", "-x", "", **LEGACY)
    assert told["utf8"] == "utf-8utf-8"
    assert told["words"] == ["€é", "-x", ""]


@pytest.mark.field("L7")
def test_a_locale_of_iso_8859_1_as_a_site_has_it(tmp_path: Path) -> None:
    made = subprocess.run(
        ["localedef", "-f", "ISO-8859-1", "-i", "de_DE", tmp_path / "de_DE.iso88591"],
        check=False,
        capture_output=True,
    )
    if not (tmp_path / "de_DE.iso88591").exists():
        pytest.skip(f"no such locale can be made here: {made.stderr!r}")
    environment = {"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.ISO-8859-1"}
    assert look(tmp_path, "€é", **environment)["words"] == ["€é"]


@pytest.mark.field("W6")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("environment", [{}, LEGACY], ids=["utf8", "legacy"])
def test_closed_descriptors_are_opened_first(
    closed: str, environment: dict[str, str], tmp_path: Path
) -> None:
    fds = look(tmp_path, closed=closed, **environment)["fds"]
    assert isinstance(fds, list)
    wanted = {"<&-": 0, ">&-": 1, "2>&-": 2}
    for word in closed.split():
        assert fds[wanted[word]] == "/dev/null"


@pytest.fixture
def sighup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.field("W6")
def test_a_hangup_is_heard_unless_nohup_says_otherwise(sighup: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert entry.hangup() == {signal.SIGHUP}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert entry.hangup() == set()


@pytest.mark.field("L7", "W6")
@pytest.mark.parametrize("program", ["pilot", "dispatcher", "harvester-edge"])
def test_each_program_begins_with_it(program: str) -> None:
    """`--help` has characters that a legacy locale lacks; stderr is closed."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", Path(sys.executable).parent / program, "--help"],
        env={**LEGACY, "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.decode("utf-8")
