"""A seeded sample of `scripts/bench registration`; its full count is in docs/benchmarks.md."""

from __future__ import annotations

import pytest

from tests.rig import registration_kills

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("rse", ["ROOT", "DAVS"])
def test_an_output_is_registered_once_whoever_is_killed_and_nothing_else_is_left(
    rse, rucio, tmp_path
):
    done = registration_kills.run(rucio, rse, len(registration_kills.KINDS), 7, tmp_path)
    assert done.faults == []
    assert set(done.kills) == set(registration_kills.KINDS)
