"""H1: whatever a client sends, at every endpoint, is answered below 500 and as the description
says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.programs import Rig
from tests.rig.schemathesis import sent

pytestmark = [pytest.mark.real, pytest.mark.slow]
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.timeout(120)
def test_h1_schemathesis_finds_nothing():
    """What it makes up; `scripts/bench schema` has all its phases, in all roles."""
    with Rig(serve=["--rate", "0"]) as rig:
        token = rig.admin_token.read_text().strip()
        done = sent(rig, token, "--phases", "fuzzing", "--max-examples", 8, "--seed", 1)
        assert "request_broke" not in rig.dispatcher.log.read_text()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "Fuzzing" in done.stdout


@pytest.mark.timeout(180)
def test_h1_a_hundred_thousand_requests_native_and_panda_s_break_nothing():
    """As many as fit in the time; `scripts/bench fuzz` sends a million."""
    command = [sys.executable, "-m", "benchmarks", "fuzz", "--requests", "100000"]
    done = subprocess.run(
        [*command, "--seconds", "70"],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    figures = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert figures, done.stderr
    assert figures["fuzz: requests"]["ours"] > 5_000
    assert figures["fuzz: faults"]["ours"] == 0, figures["fuzz: faults"]["note"]
    assert done.returncode == 0, done.stderr
