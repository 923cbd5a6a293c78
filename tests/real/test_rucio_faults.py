"""Jobs with data in a real Rucio whose parts fail: a replica is damaged, a storage is full, the
catalogue is away or refuses."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

import pytest

from ailurus.protocol.errors import Code
from tests.real.test_rucio import Experiment, did_of, output
from tests.rig import rucio as at
from tests.rig.proxy import Fault, Proxy
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(110)]


@pytest.fixture
def mark() -> str:
    """What names end in: every dispatcher begins with job 1, and they share one Rucio."""
    return token_hex(4)


def damaged(rucio, did: str, rse: str = "POSIX") -> None:
    """Another content of the same size in a file's replica there."""
    posix, xrootd = rucio.directory / "storage", Path(rucio.facts["xrootd"]["store"])
    (path,) = (posix if rse == "POSIX" else xrootd).rglob(did.partition(":")[2])
    path.write_bytes(b"?" * path.stat().st_size)


def test_a_damaged_replica_is_told_and_another_one_is_taken(rucio, tmp_path, mark):
    content = b"right" * 1000
    only, twice = f"user.alice:only.{mark}", f"user.alice:twice.{mark}"
    at.upload(rucio, "POSIX", {only: content, twice: content}, tmp_path / "in")
    at.upload(rucio, "ROOT", {twice: content}, tmp_path / "again")
    far = {rse: f"user.alice:{rse.lower()}.{mark}" for rse in ("ROOT", "DAVS")}
    for rse, did in far.items():
        at.upload(rucio, rse, {did: content}, tmp_path / rse)
        damaged(rucio, did, rse)
    for did in (only, twice):
        damaged(rucio, did)
    with Experiment(rucio, tmp_path) as here:
        good = here.submit(
            command=f"test right = $(head -c 5 twice.{mark})", inputs=[f"rucio://{twice}"]
        )
        bad = [
            here.submit(command="true", inputs=[f"rucio://{did}"]) for did in (only, *far.values())
        ]
        here.finished(good)
        jobs = [here.ended(job_id) for job_id in bad]
        why = [here.cli("why", job_id) for job_id in bad]
    for job in jobs:
        assert (job.row.state, job.row.code) == ("failed", Code.GET_ADLER_MISMATCH)
    assert f"{zlib.adler32(content):08x}" in jobs[0].row.diagnosis
    # XRootD's servers may know the sum of what was sent, and their clients say that it is another.
    assert all(re.search("declare (that replica|it) bad", told) for told in why), why


def test_a_full_storage_is_told_and_nothing_takes_its_room(rucio, tmp_path, mark):
    if "FULL" not in rucio.facts["rses"]:
        pytest.skip("only root can make a small storage")
    with Experiment(rucio, tmp_path, "FULL") as here:
        large = here.submit(
            command=f"head -c 3000000 /dev/zero > large.{mark}", outputs=[output(f"large.{mark}")]
        )
        job = here.ended(large)
        why = here.cli("why", large)
        small = here.submit(
            command=f"head -c 700000 /dev/zero > small.{mark}", outputs=[output(f"small.{mark}")]
        )
        here.finished(small)
        here.registration(small, "done")
    assert (job.row.state, job.row.code) == ("failed", Code.STAGE_OUT_FAILED)
    assert "no space" in job.row.diagnosis
    assert "free space there" in why
    assert list(at.everything(rucio, "user.alice", f"large.{mark}")) == []


def test_a_catalogue_that_is_away_costs_a_job_with_inputs_a_try(rucio, tmp_path, mark):
    did = f"user.alice:in.{mark}"
    at.upload(rucio, "POSIX", {did: b"here"}, tmp_path / "in")
    with Experiment(rucio, tmp_path) as here:
        rucio.ask("down")
        try:
            job_id = here.submit(command="true", inputs=[f"rucio://{did}"])
            job = here.ended(job_id)
            why = here.cli("why", job_id)
        finally:
            rucio.ask("up")
        again = here.submit(command=f"test -s in.{mark}", inputs=[f"rucio://{did}"])
        here.finished(again)
    assert (job.row.state, job.row.code) == ("failed", Code.RUCIO_UNAVAILABLE)
    assert "its server" in why


@pytest.mark.parametrize(("leave", "back"), [("down", "up"), ("signal STOP", "signal CONT")])
def test_a_catalogue_that_goes_in_the_middle_of_a_registration_delays_it(
    rucio, tmp_path, mark, leave, back
):
    seen: list[str] = []

    def fault(_: int) -> Fault:
        if proxy.seen[-1].path == "/replicas" and not seen:
            seen.append("/replicas")
            rucio.ask(*leave.split())
        return Fault.NONE

    port = urlsplit(rucio.facts["url"]).port
    assert port is not None
    with Proxy(port, fault) as proxy, Experiment(rucio, tmp_path, url=proxy.url) as here:
        job_id = here.submit(
            command=f"echo > a.{mark}", outputs=[output(f"a.{mark}", f"late.{mark}")]
        )
        here.finished(job_id)
        until(lambda: seen, 40, "the catalogue is told of the output")
        try:
            until(
                lambda: "the catalogue does not answer" in here.cli("status"),
                60,
                "it is said to be away",
                0.5,
            )
            here.registration(job_id, "due")
        finally:
            rucio.ask(*back.split())
        did = did_of(here.registration(job_id, "done"))
    known = at.known(rucio, did)
    assert known is not None
    assert known["parents"] == [f"user.alice:late.{mark}"]
    assert known["rules"] == [["panda", "POSIX", "OK", False]]


def test_a_registration_that_the_catalogue_denies_is_told_with_a_remedy(rucio, tmp_path, mark):
    with Experiment(rucio, tmp_path, account="pilot") as here:
        job_id = here.submit(command=f"echo > a.{mark}", outputs=[output(f"a.{mark}")])
        here.finished(job_id)
        file = here.registration(job_id, "refused")
    assert "AccessDenied" in file.reason
    assert "let the account of the dispatcher register there" in file.remedy
    assert at.known(rucio, did_of(file)) is None
