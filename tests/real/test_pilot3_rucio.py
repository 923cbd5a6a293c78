"""The real Pilot 3, with `rucio` as its copytool, at the same Rucio as ours: the same job, through
either, leaves the same."""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.did import Did
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.url import Url
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from tests.real import pilot3
from tests.rig import rucio as at
from tests.rig.programs import Program, Rig
from tests.rig.services import Service
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(300)]

PATIENCE_S = 150.0
CALIBRATION = b"a calibration\n" * 50
RAW = {"raw.1": b"one\n" * 1000, "raw.2": b"two\n" * 3000}
LIFETIME_S = 30 * 86_400
THEIRS, OURS = "theirs", "ours"


@dataclass
class Site:
    """A dispatcher with a job in the queue of either pilot; both have finished it."""

    rig: Rig
    rucio: Service
    rse: str
    directory: Path  # of the storage
    mark: str
    jobs: dict[str, m.JobDetail]

    def known(self, queue: str) -> dict[str, Any]:
        """What Rucio has of an output, and of its data set once it is closed, without what names
        the queue."""
        (file,) = [file for file in self.jobs[queue].files if file.name == "hits"]
        did = str(Did.of_url(Url.parse(file.url)))
        dataset = f"user.alice:{queue}.{self.mark}"
        closed = until(
            lambda: (found := at.known(self.rucio, dataset)) and not found["open"] and found,
            PATIENCE_S,
            "the data set is closed",
            every_s=1.0,
        )
        found = json.dumps({"file": at.known(self.rucio, did), "dataset": closed})
        known: dict[str, Any] = json.loads(found.replace(did, "FILE").replace(dataset, "SET"))
        return known


def a_job(queue: str, mark: str) -> JobSpec:
    """A job that reads a file and a data set, under names of its own, and makes one output for
    Rucio and one for the site's storage."""
    return JobSpec(
        name="data",
        queue=queue,
        command=f"cat calib raw/raw.1.{mark} raw/raw.2.{mark} > hits && echo seen > seen.txt",
        inputs=(
            InputFile(name="calib", url=f"rucio://user.alice:calibration.{mark}"),
            InputFile(name="raw", url=f"rucio://user.alice:raw.{mark}"),
        ),
        outputs=(
            OutputFile(
                name="hits",
                scope="user.alice",
                dataset=f"user.alice:{queue}.{mark}",
                lifetime_s=LIFETIME_S,
            ),
            OutputFile(name="seen.txt"),
        ),
        max_attempts=1,
    )


def a_storage(rucio: Service, scheme: str, mark: str) -> tuple[str, Path]:
    """A storage of Rucio, and its directory, where both pilots' users may write."""
    if scheme == "root":
        return "ROOT", Path(rucio.facts["xrootd"]["store"])
    return own_storage(rucio, f"P3_{mark.upper()}", mark)


def own_storage(rucio: Service, rse: str, name: str) -> tuple[str, Path]:
    """The same of a test's own, with a directory of that name on this machine."""
    directory = rucio.directory / "storage" / name
    directory.mkdir()
    prefix = f"{directory}/"
    at.administer(
        rucio,
        f"client.add_rse({rse!r}, deterministic=True, rse_type='DISK')\n"
        f"(protocol,) = client.get_protocols('POSIX')\n"
        f"client.add_protocol({rse!r}, {{**protocol, 'prefix': {prefix!r}}})",
    )
    return rse, directory


def rucio_of_pilot_3(rucio: Service, rig: Rig, queue: str) -> dict[str, str]:
    """The environment in which Pilot 3's user has Rucio's account `pilot`."""
    home = rig.directory / f"rucio-{queue}"
    (home / "etc").mkdir(parents=True)
    text = Path(rucio.facts["accounts"]["pilot"]["config"]).read_text(encoding="utf-8")
    token = str(Path(rucio.facts["accounts"]["pilot"]["config"]).parents[1] / "token")
    config = home / "etc" / "rucio.cfg"
    config.touch(0o600)
    config.write_text(text.replace(token, str(home / "token")), encoding="utf-8")
    for path in (home, home / "etc", config):
        shutil.chown(path, pilot3.user(), pilot3.user())
    return {
        "RUCIO_HOME": str(home),
        "RUCIO_CONFIG": str(config),
        "RUCIO_CLIENT_MODE": "1",
        "TMPDIR": str(home),
        # Where the fixture has gfal2's module.
        "PYTHONPATH": str(rucio.directory / "python"),
    }


@pytest.fixture(scope="module", params=["file", "root"])
def site(need, rucio, request) -> Iterator[Site]:
    pilot3.needed(need, "rucio")
    with tempfile.TemporaryDirectory(prefix="ailurus-panda-") as name:
        # Pytest's own directories are closed to Pilot 3's user.
        Path(name).chmod(0o755)
        yield from prepared(rucio, request.param, Path(name))


def prepared(rucio: Service, scheme: str, own: Path) -> Iterator[Site]:
    """Have inputs in Rucio, and a site in front of it."""
    mark = token_hex(4)
    rse, directory = a_storage(rucio, scheme, mark)
    named = {f"user.alice:calibration.{mark}": CALIBRATION}
    at.upload(rucio, rse, named, own / "in")
    raw = {f"user.alice:{name}.{mark}": content for name, content in RAW.items()}
    at.upload(rucio, rse, raw, own / "raw", dataset=f"user.alice:raw.{mark}")
    if scheme == "file":
        opened(directory)
    with a_rig(rucio, own, rse, scheme) as rig:
        yield ran(rig, rucio, rse, directory, mark)


def opened(directory: Path) -> None:
    """Let all users write there."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)


@contextmanager
def a_rig(
    rucio: Service,
    own: Path,
    rse: str,
    scheme: str,
    account: str = "panda",
    queues: Sequence[str] = (THEIRS, OURS),
) -> Iterator[Rig]:
    """A dispatcher with a queue for each pilot, whose storage is an RSE; `account`: with which it
    registers outputs."""
    for name in ("logs", "out", "sites"):
        (own / name).mkdir()
        (own / name).chmod(0o777)
    size = {"cores": 1, "memory": "4GiB", "disk": "4GiB", "walltime": "1h"}
    with Rig(
        serve=[
            "--catalogue",
            at.catalogue(rucio, own, account),
            "--panda-storage",
            own / "logs",
            "--panda-queues",
            own / "sites",
        ],
        heartbeat_s=0.5,
        storage={
            **at.storage(rucio, rse),
            "protocols": {"read_lan": [scheme]},
            # Not that of the fixture, where other dispatchers' jobs of that number wrote.
            "roots": [str(rucio.directory / "storage"), str(own / "out")],
            "default_output": f"file://{own}/out",
        },
        slots={queue: {"queue": queue, **size} for queue in queues},
    ) as rig:
        # The site file of the edge's pilots describes the site to PanDA's pilots, too.
        shutil.copy(rig.site_file, own / "sites" / "site.yaml")
        yield rig


def ran(rig: Rig, rucio: Service, rse: str, directory: Path, mark: str) -> Site:
    """Run the job by Pilot 3, then by ours, which as root may write beside it."""
    token = rig.token("alice", "compute.read", "compute.create")
    client = Client(rig.url, TokenFile(token))
    jobs = {}
    ids = client.submit([a_job(queue, mark) for queue in (THEIRS, OURS)]).job_ids
    theirs = a_pilot_3(rig, rucio)
    for queue, job_id in zip((THEIRS, OURS), ids, strict=True):
        if queue == OURS:
            rig.pilot("--max-jobs", "1", "--queue", OURS, name="our-pilot")
        client.wait([job_id], PATIENCE_S)
        jobs[queue] = until(
            lambda job_id=job_id: registered(client.show(job_id)), PATIENCE_S, "it is registered"
        )
    theirs.kill()  # it would stay for a minute to end
    return Site(rig, rucio, rse, directory, mark, jobs)


def a_pilot_3(rig: Rig, rucio: Service, queue: str = THEIRS) -> Program:
    """A Pilot 3 at a queue, whose copytool is Rucio's."""
    config = pilot3.config(rig.directory, heartbeat=5, update_sleep=5)
    return pilot3.start(
        rig,
        queue,
        "--rucio-host",
        rucio.facts["url"],
        HARVESTER_PILOT_CONFIG=str(config),
        **rucio_of_pilot_3(rucio, rig, queue),
    )


def registered(job: m.JobDetail) -> m.JobDetail | None:
    """A job that has finished, once Rucio knows its output."""
    assert job.row.state == "finished", job.row.diagnosis
    states = {file.name: file.registration for file in job.files}
    assert states["hits"] != "refused", job.files
    return job if states["hits"] == "done" else None


def test_either_pilot_ran_the_job_meant_for_it(site):
    assert site.jobs[THEIRS].attempts[-1].runtime == "panda"
    assert site.jobs[OURS].attempts[-1].runtime != "panda"


def test_both_pilots_leave_the_same_in_rucio(site):
    theirs, ours = site.known(THEIRS), site.known(OURS)
    content = b"".join([CALIBRATION, *RAW.values()])
    assert theirs["file"]["files"] == [["FILE", len(content), f"{zlib.adler32(content):08x}"]]
    assert set(theirs["file"]["replicas"]["FILE"]) == {site.rse}
    assert theirs["file"]["parents"] == ["SET"]
    assert theirs["file"]["rules"] == [["panda", site.rse, "OK", True]]
    assert theirs["file"]["lifetimes_s"] == [LIFETIME_S]
    for one in (theirs, ours):
        (place,) = one["file"]["replicas"]["FILE"][site.rse]
        (path,) = site.directory.rglob(place.rpartition("/")[2])
        assert path.read_bytes() == content
        for known in one.values():
            # The names of files carry their jobs' numbers.
            known["replicas"] = {did: list(places) for did, places in known["replicas"].items()}
    assert theirs == ours


def test_what_does_not_go_to_rucio_goes_to_the_sites_storage(site):
    for job in site.jobs.values():
        (file,) = [file for file in job.files if file.name == "seen.txt"]
        assert Path(urlsplit(file.url).path).read_text(encoding="utf-8") == "seen\n"
        assert file.registration == ""
