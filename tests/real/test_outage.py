"""Storage that goes away while jobs store their outputs: `scripts/bench outage` for ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.data.moving import system_module
from tests.rig import outage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(110)]


def test_outputs_wait_for_their_storage_and_none_is_lost(xrootd, tmp_path):
    system_module("XRootD.client")
    place = Path(xrootd.facts["store"]) / tmp_path.name
    place.mkdir()
    place.chmod(0o777)
    done = outage.run(xrootd, place, away_s=8)
    assert done.faults == ()
    assert done.waited > 2
