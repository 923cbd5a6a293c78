"""R10: pilots that come back all at once are all heard, at times of their own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from ailurus.wire.retry import Patience, pauses

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_r10_a_herd_of_pilots_is_heard_after_the_dispatcher_was_killed():
    """A thousand here; `scripts/bench herd` has ten thousand."""
    command = [sys.executable, "-m", "benchmarks", "herd", "--pilots", "1000"]
    done = subprocess.run(
        command, cwd=SCRIPTS, capture_output=True, text=True, timeout=170, check=False
    )
    figures = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert figures, done.stderr
    assert figures["herd: pilots that were lost"]["ours"] == 0
    assert figures["herd: spread of their coming"]["ours"] > 0
    assert done.returncode == 0, done.stderr


def test_r10_no_two_pilots_pause_alike():
    patience = Patience(first_s=0.2, longest_s=15.0)
    first = [tuple(islice(pauses(patience, random.Random(seed)), 8)) for seed in range(1000)]
    assert len(set(first)) == 1000
    for nr in range(8):
        bound = min(0.2 * 2**nr, 15.0)
        spread = [one[nr] for one in first]
        assert bound / 2 <= min(spread) < bound * 0.55
        assert bound * 0.95 < max(spread) <= bound
