"""Each program prints what a shell needs to complete it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from ailurus.completion import SHELLS, completion
from ailurus.protocol.errors import AilurusError
from tests.rig.programs import BIN

KNOWS = {
    "dispatcher": ("submit", "usage", "--token-file"),
    "harvester-edge": ("lint", "drain", "--config"),
    "pilot": ("--queue", "--site", "--workdir"),
}


@pytest.mark.parametrize("program", KNOWS)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_prints_what_a_shell_completes(program, shell):
    argv = [BIN / program, "--print-completion", shell]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    for word in KNOWS[program]:
        assert word.removeprefix("--") in done.stdout, word
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize("program", KNOWS)
@pytest.mark.parametrize("words", [["csh"], [], ["bash", "zsh"]])
def test_another_shell_is_refused_with_those_that_there_are(program, words):
    argv = [BIN / program, "--print-completion", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (64, 78)
    assert "bash" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_the_library_is_not_there_its_name_is_said(monkeypatch):
    from pilot.options import parser_for

    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(AilurusError, match="pip install shtab"):
        completion(parser_for({}), "bash")
