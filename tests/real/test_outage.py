"""Storage, or Rucio, that goes away while jobs store their outputs: `scripts/bench outage` has both
away for ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.data.moving import system_module
from tests.rig import catalogue_outage, outage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(110)]


def test_outputs_wait_for_their_storage_and_none_is_lost(xrootd, tmp_path):
    system_module("XRootD.client")
    place = Path(xrootd.facts["store"]) / tmp_path.name
    place.mkdir()
    place.chmod(0o777)
    done = outage.run(xrootd, place, away_s=8)
    assert done.faults == ()
    assert done.waited > 2


def test_outputs_wait_for_their_catalogue_and_each_is_registered_once(rucio, tmp_path):
    away = [("cut", 2.0), ("stalled", 3.0)]
    done = catalogue_outage.run(rucio, tmp_path, away, rounds=2)
    assert done.faults == ()
    assert done.due > 0
    assert done.waited > 0
