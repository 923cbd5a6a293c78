"""A server of XRootD that breaks its protocol costs one file its time, and nothing else."""

from __future__ import annotations

import pytest

from pilot.ports import Moved, ToGet
from tests.real.storages import Site, failed, watch
from tests.rig.hostile_xrootd import WAYS, HostileXRootD

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(90)]
FILE_S = 4.0


ZEROS = "03e80001"
"""The adler32 of the file that comes: no server is asked for one that is declared."""


def order(site: Site, key: int, url: str) -> ToGet:
    path = str(site.directory / f"got{key}")
    return ToGet(key=key, url=url, path=path, size=1000, adler32=ZEROS)


@pytest.mark.parametrize("site", ["xrootd"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_of_a_hostile_server_fails_in_time_beside_others_that_come(site: Site, way: str):
    good = site.stored("good", 1000)
    with HostileXRootD(way) as server:
        hostile = f"root://127.0.0.1:{server.port}//store/f"
        files = [order(site, key, url) for key, url in enumerate([good, hostile, good])]
        ends = site.pool.get(files, watch(file_s=FILE_S))
    if isinstance(ends[1], Moved):
        # What came is told as it is, and the pilot compares.
        assert (way, ends[1].size, ends[1].adler32) == ("bad size", 0, "00000001")
    else:
        failed(ends[1])
        assert not (site.directory / "got1").exists()
    assert isinstance(ends[0], Moved)
    assert isinstance(ends[2], Moved)
    assert isinstance(site.pool.get([order(site, 3, good)], watch())[3], Moved)
    assert server.redirects <= 20
