"""What a mover in its own process tells when a real storage fails, and what it leaves: nothing."""

from __future__ import annotations

import os

import pytest

from ailurus.protocol.errors import Code
from pilot.ports import JobError, Moved, NotMoved
from pilot.process import mover_pool
from pilot.process.mover_pool import MoverPool
from tests.real.storages import Site, failed, watch
from tests.rig.waiting import until

GRID = pytest.mark.parametrize("site", ["gfal2", "xrootd"], indirect=True)
ALL = pytest.mark.parametrize("site", ["gfal2", "xrootd", "s3"], indirect=True)
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(90)]
LARGE_BYTES = 1 << 28
PACE_BYTES_S = 20e6
MIDDLE_BYTES, FILE_BYTES = 4 << 20, 32 << 20
SLOW_BYTES = 8 << 20
SHORT_S, LONG_S = 2.5, 25.0
UNDER_WAY = {Code.SERVICE_UNAVAILABLE, Code.STAGE_IN_FAILED, Code.STAGE_OUT_FAILED}
FAULTS = {
    "ends": (("down",), ("up",)),
    "stands still": (("signal", "STOP"), ("signal", "CONT")),
}
LATE = {Code.STAGE_IN_TIMEOUT, Code.STAGE_OUT_TIMEOUT}


def stored_at_last(site: Site, url: str, pool: MoverPool, end: Moved | NotMoved) -> None:
    """Have a file stored that was not, with the tries that a job has."""
    failed(end)

    def again() -> bool:
        nonlocal end
        if isinstance(end, NotMoved) and end.left:
            pool.delete([url], watch())
        end = site.put(url, FILE_BYTES, pool, LONG_S)
        return isinstance(end, Moved) or not end.transient

    until(again, 10, "it is stored", every_s=0.5)
    assert isinstance(end, Moved), end


@ALL
def test_a_missing_file_is_told(site):
    end = site.get(site.url("nope"))
    assert failed(end) == (Code.NO_SUCH_FILE, False)
    assert not site.got.exists()


@ALL
def test_a_storage_that_is_away_is_told_with_a_remedy_and_used_again_once_it_is_back(site):
    url = site.stored("away", 1000)
    assert isinstance(site.get(url), Moved)
    site.got.unlink()
    site.service.ask("down")
    try:
        end = site.get(url)
    finally:
        site.service.ask("up")
    assert failed(end) == (Code.SERVICE_UNAVAILABLE, True)
    assert end.remedy
    assert not site.got.exists()
    assert isinstance(site.get(url), Moved)


@GRID
def test_a_storage_that_was_started_again_meanwhile_is_no_failure(site):
    url = site.stored("again", 1000)
    assert isinstance(site.get(url), Moved)
    site.got.unlink()
    site.service.ask("down")
    site.service.ask("up")
    assert isinstance(site.get(url), Moved)


@ALL
def test_a_silent_storage_costs_a_file_its_time_and_no_more(site):
    url = site.stored("silent", LARGE_BYTES)
    site.service.ask("signal", "STOP")
    try:
        end = site.get(url, file_s=SHORT_S)
    finally:
        site.service.ask("signal", "CONT")
    assert failed(end) == (Code.STAGE_IN_TIMEOUT, True)
    assert not site.got.exists()
    assert isinstance(site.get(url, file_s=LONG_S), Moved)


@ALL
@pytest.mark.parametrize("what", ["ends", "stands still"])
def test_a_download_from_a_storage_that_fails_in_the_middle_leaves_no_part(site, what):
    url, (begin, heal) = site.stored("middle", FILE_BYTES), FAULTS[what]
    with site.lane(PACE_BYTES_S) as lane:
        pool, by = site.by(lane)
        lane.after(MIDDLE_BYTES, lambda: site.service.ask(*begin))
        try:
            end = site.get(by(url), pool, file_s=SHORT_S)
            lane.acted()
        finally:
            site.service.ask(*heal)
        code, transient = failed(end)
        assert code in (UNDER_WAY if what == "ends" else LATE)
        assert transient
        assert not site.got.exists()
        assert isinstance(site.get(by(url), pool, file_s=LONG_S), Moved)
    assert site.got.stat().st_size == FILE_BYTES


@ALL
@pytest.mark.parametrize("what", ["ends", "stands still"])
def test_an_upload_to_a_storage_that_fails_in_the_middle_can_be_tried_again(
    site, what, monkeypatch
):
    monkeypatch.setattr(mover_pool, "CLEARING_S", 2.0)
    begin, heal = FAULTS[what]
    with site.lane(PACE_BYTES_S) as lane:
        pool, by = site.by(lane)
        url = by(site.url("middle"))
        lane.after(MIDDLE_BYTES, lambda: site.service.ask(*begin))
        try:
            end = site.put(url, FILE_BYTES, pool, SHORT_S)
            lane.acted()
        finally:
            site.service.ask(*heal)
        code, transient = failed(end)
        assert code in (UNDER_WAY if what == "ends" else LATE)
        assert transient

        stored_at_last(site, url, pool, end)
    assert isinstance(site.get(site.url("middle"), file_s=LONG_S), Moved)
    assert site.got.stat().st_size == FILE_BYTES


@ALL
def test_a_slow_storage_has_the_time_that_the_sites_floor_of_speed_gives(site):
    url = site.stored("slow", SLOW_BYTES)
    with site.lane(1.5e6) as lane:
        pool, by = site.by(lane)
        end = site.get(by(url), pool, file_s=SHORT_S)
        assert failed(end) == (Code.STAGE_IN_TIMEOUT, True)
        assert "min_speed" in end.remedy
        assert not site.got.exists()
        assert isinstance(site.get(by(url), pool, file_s=LONG_S), Moved)


@GRID
def test_a_full_storage_is_told_with_a_remedy(site):
    if not site.service.facts.get("full"):
        pytest.skip("only root can make a small storage")
    url = f"{site.base}/{site.service.facts['full']}/large"
    end = site.put(url, 4 << 20)
    assert failed(end) == (Code.STAGE_OUT_FAILED, True)
    assert end.remedy
    assert isinstance(site.get(url), NotMoved)


@GRID
def test_a_file_that_the_storage_does_not_let_us_read_is_told(site):
    url = site.stored("secret", 10)
    site.path("secret").chmod(0)
    end = site.get(url)
    assert failed(end)[0] == Code.STAGE_IN_FAILED
    assert end.remedy
    assert not site.got.exists()


@GRID
def test_a_token_for_reading_does_not_write(site):
    pool = site.with_token("storage.read:/")
    end = site.put(site.token_url("denied"), 10, pool)
    assert failed(end)[0] == Code.STAGE_OUT_FAILED
    assert end.remedy
    assert not site.path("denied").exists()


@GRID
def test_an_expired_token_is_told_with_a_remedy(site):
    site.stored("kept", 10)
    pool = site.with_token("storage.read:/", -60)
    end = site.get(site.token_url("kept"), pool)
    assert failed(end)[0] == Code.STAGE_IN_FAILED
    assert end.remedy
    assert not site.got.exists()


@GRID
def test_a_token_that_was_revoked_is_told_and_its_successor_is_used(site):
    site.stored("kept", 10)
    pool = site.with_token("storage.read:/")
    assert isinstance(site.get(site.token_url("kept"), pool), Moved)
    site.got.unlink()
    site.service.ask("revoke")
    end = site.get(site.token_url("kept"), pool)
    assert failed(end)[0] == Code.STAGE_IN_FAILED
    assert end.remedy
    assert not site.got.exists()
    site.with_token("storage.read:/")
    assert isinstance(site.get(site.token_url("kept"), pool), Moved)


@GRID
def test_a_token_is_found_where_the_wlcg_says_and_nowhere_else(site):
    site.stored("kept", 10)
    pool = site.with_discovery(site.directory / "named", site.directory)
    with pytest.raises(JobError, match=f"{site.directory}/named, which cannot be read") as raised:
        site.get(site.token_url("kept"), pool)
    assert (raised.value.code, raised.value.transient) == (Code.SERVICE_UNAVAILABLE, True)
    site.given("storage.read:/", "named")
    assert isinstance(site.get(site.token_url("kept"), pool), Moved)
    site.got.unlink()
    usual = site.with_discovery(None, site.directory)
    site.given("storage.read:/", f"bt_u{os.getuid()}")
    assert isinstance(site.get(site.token_url("kept"), usual), Moved)


@ALL
def test_a_mover_that_is_killed_in_the_middle_costs_another_try(site):
    with site.lane(PACE_BYTES_S) as lane:
        pool, by = site.by(lane)
        url = by(site.url("killed"))
        lane.after(MIDDLE_BYTES, site.kill_movers)
        end = site.put(url, FILE_BYTES, pool, LONG_S)
        lane.acted()
        if not isinstance(end, Moved):
            # Its server may not have done with the dead one.
            stored_at_last(site, url, pool, end)
    assert isinstance(site.get(site.url("killed"), file_s=LONG_S), Moved)
    assert site.got.stat().st_size == FILE_BYTES


@pytest.mark.parametrize("site", ["s3"], indirect=True)
def test_a_bucket_of_somebody_else_and_one_without_room_are_told(site):
    facts = site.service.facts
    url = site.stored("mine", 10)
    end = site.get(url, site.made(keys_file=site.keys(facts["other"])))
    assert failed(end) == (Code.STAGE_IN_FAILED, False)
    assert end.remedy
    stranger = {**facts["other"], "secret_key": "wrong"}
    assert (
        failed(site.get(url, site.made(keys_file=site.keys(stranger))))[0] == Code.STAGE_IN_FAILED
    )
    full = f"s3://{facts['small']}/{site.own}.large"
    end = site.put(full, 2 << 20)
    assert failed(end) == (Code.STAGE_OUT_FAILED, True)
    assert end.remedy
    assert failed(site.get(full)) == (Code.NO_SUCH_FILE, False)
    assert not site.got.exists()
