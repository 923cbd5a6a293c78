"""A seeded sample of `scripts/bench chaos`; its full counts are in docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.nodes import nodes_needed

pytestmark = [pytest.mark.real, pytest.mark.slow]
SCRIPTS = Path(__file__).parents[2] / "scripts"


def chaos(*options: str) -> list[dict[str, object]]:
    """The figures of one run. Whatever was lost, doubled or left running is in `faults`."""
    command = [sys.executable, "-m", "benchmarks", "chaos", *options]
    done = subprocess.run(
        command, cwd=SCRIPTS, capture_output=True, text=True, timeout=280, check=False
    )
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert figures, done.stderr
    assert done.returncode == 0, done.stderr
    return figures


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "options",
    [
        ("--kills", "6", "--jobs", "80", "--seed", "1"),
        ("--kills", "3", "--jobs", "60", "--seed", "2", "--proxy"),
        ("--kills", "2", "--jobs", "60", "--seed", "4", "--network"),
        ("--kills", "0", "--jobs", "20", "--seed", "3", "--stop"),
        ("--kills", "5", "--jobs", "60", "--seed", "5", "--postgres"),
        ("--kills", "2", "--jobs", "60", "--seed", "6", "--postgres", "--faults", "full-disk"),
    ],
    ids=[
        "kills",
        "kills-and-lost-answers",
        "network-faults",
        "stopped-dispatcher",
        "postgresql",
        "r4-full-disk-of-postgresql",
    ],
)
def test_r1_r2_r3_every_job_finishes_exactly_once(options: tuple[str, ...], need) -> None:
    if "--postgres" in options:
        need("pg_ctl", package="postgresql", option="--postgres", where="/usr/lib/postgresql/*/bin")
    if "full-disk" in options and os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    assert all(figure["met"] for figure in chaos(*options) if figure["met"] is not None)


@pytest.mark.timeout(300)
def test_each_payload_counts_once_though_machines_and_agents_are_lost(need) -> None:
    nodes_needed(need)
    need("slurmctld", package="slurm-wlm", option="--slurm")
    assert all(figure["met"] for figure in chaos("--nodes", "--kills", "4", "--seed", "1"))
