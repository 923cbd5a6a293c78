"""What the pilot's own transfer of `davs:` tells when a real XRootD fails; it leaves nothing of
which it does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ailurus import token_discovery
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.messages import Assignment
from pilot.attempt import Attempt
from pilot.files import tries
from pilot.files.stage import Stage
from pilot.ports import JobError
from pilot.site import Bounds, Storage
from pilot.workdir import Workdir
from plugins.data import http
from tests.rig.lane import Lane
from tests.rig.services import Service
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(60)]
FILE_BYTES, MIDDLE_BYTES, SLOW_BYTES = 16 << 20, 4 << 20, 4 << 20
PACE_BYTES_S, SLOW_BYTES_S = 20e6, 1.5e6
SHORT_S, LONG_S = 1.5, 20.0
FAULTS = {
    "ends": (("down",), ("up",)),
    "stands still": (("signal", "STOP"), ("signal", "CONT")),
}


class Davs:
    """Files of jobs at one XRootD; each method says why it failed."""

    def __init__(self, service: Service, directory: Path) -> None:
        self.service, self.directory = service, directory
        self.token = directory / "bearer"
        self.token_file = ""
        """What the site says of it, if not where it is."""
        self.left: list[str] = []
        """URLs of what may be there in part."""

    def url(self, name: str) -> str:
        return f"{self.service.facts['davs']}/{self.directory.name}.{name}"

    def token_url(self, name: str) -> str:
        """At the server that wants a token."""
        return f"{self.service.facts['token']['davs']}/{self.directory.name}.{name}"

    def path(self, name: str) -> Path:
        """Where it lies; an output is in the directory that its URL names."""
        return Path(self.service.facts["store"], f"{self.directory.name}.{name}")

    def stored(self, name: str, size: int = FILE_BYTES) -> str:
        """Have a file of zeros there; its URL."""
        with self.path(name).open("wb") as file:
            file.truncate(size)
        self.path(name).chmod(0o644)
        return self.url(name)

    def given(self, scope: str, lifetime_s: int = 600) -> None:
        """Give the site a token."""
        self.token.touch(0o600)
        self.token.write_text(self.service.ask("token", scope, lifetime_s), encoding="utf-8")

    def stage(self, url: str, file_s: float = LONG_S) -> Stage:
        place = url.rpartition("/")[0] + "/"
        own = http.Http(
            http_allow=[place],
            ca=self.service.facts["ca_file"],
            options={"token_file": self.token_file or str(self.token), "token_for": [place]}
            if self.token.exists()
            else {},
        )
        bounds = Bounds(
            stdout_bytes=0, output_bytes=1 << 40, inputs_bytes=0, looping_s=0.0, staging_s=LONG_S,
            grace_s=1.0, min_speed=1e12, min_time_s=file_s,
        )  # fmt: skip
        return Stage(lambda scheme: own, "", bounds, Storage(http_allow=(place,)))

    def get(self, url: str, file_s: float = LONG_S, **declared: Any) -> JobError | None:
        file = InputFile(name="in", url=url, **declared)
        with Workdir(self.directory / "job") as work:
            work.make()
            try:
                self.stage(url, file_s).stage_in(an_attempt(inputs=(file,)), work)
            except JobError as error:
                return error
            assert (work.directory / "in").stat().st_size > 0
            return None

    def put(self, url: str, size: int, file_s: float = LONG_S) -> JobError | None:
        attempt = an_attempt(outputs=(OutputFile(name="out", url=url),))
        with Workdir(self.directory / "job") as work:
            work.make()
            with (work.directory / "out").open("wb") as file:
                file.truncate(size)
            try:
                self.stage(url, file_s).stage_out(attempt, work)
            except JobError as error:
                self.left += attempt.leftovers
                return error
            return None

    def nothing(self, name: str) -> bool:
        """Whether nothing of a file is there once what was told to be left is removed."""
        there = self.stage(self.url(name)).delete(self.left)
        return not there and not list(self.path(name).glob("*"))


def an_attempt(**files: Any) -> Attempt:
    spec = JobSpec(name="job", command="true", **files)
    return Attempt(Assignment(job_id=1, attempt_nr=1, report_key="k", spec=spec), lambda _: None)


@pytest.fixture
def davs(xrootd: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Davs:
    # How long a try waits for the next one is tested with a clock of its own.
    monkeypatch.setattr(tries, "PAUSES_S", (0.1, 0.1))
    monkeypatch.setattr(http, "DELETE_S", 2.0)
    return Davs(xrootd, tmp_path)


def told(error: JobError | None) -> Code:
    """The code of a failure, which says what helps and where in the job it is."""
    assert error is not None
    assert error.remedy, error
    assert error.field.startswith(("inputs[0]", "outputs[0]")), error.field
    return Code(error.code)


def test_what_is_missing_away_or_another_file_is_told(davs):
    url = davs.stored("file")
    assert told(davs.get(davs.url("nope"))) is Code.NO_SUCH_FILE
    assert told(davs.get(url, adler32="00000009")) is Code.GET_ADLER_MISMATCH
    davs.service.ask("down")
    try:
        assert told(davs.get(url)) is Code.STAGE_IN_FAILED
        assert told(davs.put(davs.url("out"), 10)) is Code.STAGE_OUT_FAILED
    finally:
        davs.service.ask("up")
    assert davs.get(url) is None
    assert davs.nothing("out")


@pytest.mark.parametrize("what", FAULTS)
def test_a_server_that_fails_in_the_middle_costs_the_file_and_leaves_no_part(davs, what):
    url, (begin, heal) = davs.stored("in"), FAULTS[what]
    with Lane(davs.service.facts["davs"], PACE_BYTES_S) as lane:
        lane.after(MIDDLE_BYTES, lambda: davs.service.ask(*begin))
        try:
            got = davs.get(lane.url(url), SHORT_S, size=FILE_BYTES)
            lane.acted()
        finally:
            davs.service.ask(*heal)
        lane.after(MIDDLE_BYTES, lambda: davs.service.ask(*begin))
        try:
            put = davs.put(lane.url(davs.url("out")), FILE_BYTES, SHORT_S)
            lane.acted()
        finally:
            davs.service.ask(*heal)
    late = what == "stands still"
    assert told(got) is (Code.STAGE_IN_TIMEOUT if late else Code.STAGE_IN_FAILED)
    assert told(put) is (Code.STAGE_OUT_TIMEOUT if late else Code.STAGE_OUT_FAILED)
    assert davs.get(url) is None
    # The lane has ended.
    davs.left = [one.replace(lane.url(davs.url("")), davs.url("")) for one in davs.left]
    assert davs.nothing("out")
    # It may still have the dead one open.
    until(lambda: davs.put(davs.url("out"), FILE_BYTES) is None, 10, "it is stored", every_s=0.5)
    (stored,) = davs.path("out").iterdir()
    assert stored.stat().st_size == FILE_BYTES


def test_a_slow_server_has_the_time_that_the_sites_floor_of_speed_gives(davs):
    url = davs.stored("slow", SLOW_BYTES)
    with Lane(davs.service.facts["davs"], SLOW_BYTES_S) as lane:
        late = davs.get(lane.url(url), SHORT_S, size=SLOW_BYTES)
        assert told(late) is Code.STAGE_IN_TIMEOUT
        assert "min_speed" in late.remedy
        assert davs.get(lane.url(url)) is None


def test_a_full_storage_takes_nothing_and_is_told(davs):
    if not (full := davs.service.facts.get("full")):
        pytest.skip("only root can make a small storage")
    url = f"{davs.service.facts['davs']}/{full}/large/1.1.out"
    assert told(davs.put(url.rpartition("/")[0], 4 << 20)) is Code.STAGE_OUT_FAILED
    assert davs.stage(url).delete(davs.left) == []
    assert told(davs.get(url)) is Code.NO_SUCH_FILE


def test_tokens_that_expired_were_revoked_or_do_not_cover_a_path_are_told(davs):
    davs.stored("kept", 10)
    davs.given("storage.read:/")
    denied = davs.put(davs.token_url("denied"), 10)
    assert told(denied) is Code.STAGE_OUT_FAILED
    assert davs.get(davs.token_url("kept")) is None
    davs.service.ask("revoke")
    assert told(davs.get(davs.token_url("kept"))) is Code.STAGE_IN_FAILED
    davs.given("storage.read:/", -60)
    expired = davs.get(davs.token_url("kept"))
    assert told(expired) is Code.STAGE_IN_FAILED
    davs.given("storage.read:/")
    assert davs.get(davs.token_url("kept")) is None
    assert not davs.path("denied").exists()
    for error in (denied, expired):
        assert "token_file" in error.remedy


def test_a_token_is_found_where_the_wlcg_says(davs, monkeypatch):
    davs.stored("kept", 10)
    davs.given("storage.read:/")
    there = {"BEARER_TOKEN_FILE": str(davs.token)}
    davs.token_file = token_discovery.DISCOVERED
    monkeypatch.setattr(token_discovery, "STARTED_WITH", there)
    assert davs.get(davs.token_url("kept")) is None


def test_a_file_that_the_server_may_not_read_is_told(davs):
    url = davs.stored("secret", 10)
    davs.path("secret").chmod(0)
    assert told(davs.get(url)) is Code.STAGE_IN_FAILED
