"""Files of jobs that bring their user's credentials, at real storage that lets nobody else in."""

from __future__ import annotations

from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import CredentialUse, InputFile, JobSpec, OutputFile
from ailurus.protocol.states import JobState
from plugins.data.moving import system_module
from tests.rig.programs import Rig, null_job

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(110)]


def job(at: str, name: str, *credentials: str) -> JobSpec:
    """One that reads `in` at a place, and writes there what it read."""
    return null_job(
        name=name,
        command="cp got out",
        inputs=[InputFile(name="got", url=f"{at}/in")],
        outputs=[OutputFile(name="out", url=f"{at}/{name}/")],
        credentials=tuple(CredentialUse(name=one) for one in credentials),
        max_attempts=1,
    )


def ended(rig: Rig, *jobs: JobSpec) -> list[m.JobRow]:
    ids = rig.client.submit(list(jobs)).job_ids
    rig.client.wait(ids, 60)
    return [rig.client.show(one).row for one in ids]


def keep(rig: Rig, name: str, secret: str) -> None:
    rig.client.call(
        "keep_credential", m.NewCredential(name=name, secret=secret), answer=m.CredentialRow
    )


@pytest.mark.parametrize("scheme", ["davs", "root"])
def test_files_of_a_users_token(xrootd, tmp_path, scheme):
    if scheme == "root":
        system_module("XRootD.client")
    facts = xrootd.facts
    at = f"{facts['token'][scheme]}/{tmp_path.name}"
    place = Path(facts["store"], tmp_path.name)
    place.mkdir()
    place.chmod(0o777)
    (place / "in").write_text("data")
    site = {
        "http_allow": [f"{facts['token']['davs']}/"],
        "allow": [f"{facts['token']['root']}/"],
        "xrootd": {"ca_dir": facts["ca_dir"], "ca": facts["ca_file"]},
    }
    with Rig(heartbeat_s=0.5, storage=site) as rig:
        rig.pilot("--ca", facts["ca_file"])
        keep(rig, "mine", xrootd.ask("token", "storage.read:/ storage.modify:/"))
        keep(rig, "read-only", xrootd.ask("token", "storage.read:/"))
        mine, none, reads = ended(
            rig, job(at, "mine", "mine"), job(at, "none"), job(at, "reads", "read-only")
        )
    assert mine.state == JobState.FINISHED, mine
    assert none.state == reads.state == JobState.FAILED, (none, reads)
    assert [path.read_text() for path in (place / "mine").iterdir()] == ["data"]


@pytest.mark.parametrize("scheme", ["davs", "root"])
def test_files_of_a_users_proxy_and_of_the_sites(xrootd, tmp_path, scheme):
    if scheme == "root":
        system_module("XRootD.client")
    facts = xrootd.facts
    at = f"{facts['proxy'][scheme]}/{tmp_path.name}"
    place = Path(facts["store"], tmp_path.name)
    place.mkdir()
    place.chmod(0o777)
    (place / "in").write_text("data")
    own = tmp_path / "x509up"
    own.touch(0o600)
    own.write_text(xrootd.ask("proxy"), encoding="ascii")
    site = {
        "http_allow": [f"{facts['proxy']['davs']}/"],
        "allow": [f"{facts['proxy']['root']}/"],
        "http": {"proxy": str(own), "token_for": [f"{facts['proxy']['davs']}/"]},
        "xrootd": {"proxy": str(own), "ca_dir": facts["ca_dir"], "ca": facts["ca_file"]},
    }
    with Rig(heartbeat_s=0.5, storage=site) as rig:
        rig.pilot("--ca", facts["ca_file"])
        keep(rig, "mine", xrootd.ask("proxy"))
        keep(rig, "strangers", xrootd.ask("proxy", "stranger"))
        mine, sites, strange = ended(
            rig, job(at, "mine", "mine"), job(at, "sites"), job(at, "strange", "strangers")
        )
    assert mine.state == sites.state == JobState.FINISHED, (mine, sites)
    assert strange.state == JobState.FAILED, strange
    for name in ("mine", "sites"):
        assert [path.read_text() for path in (place / name).iterdir()] == ["data"]


def test_objects_of_a_users_keys(ceph, tmp_path):
    system_module("botocore")
    facts = ceph.facts
    bucket = f"s3://{facts['bucket']}"
    secret = (
        f"[default]\naws_access_key_id={facts['access_key']}\n"
        f"aws_secret_access_key={facts['secret_key']}\n"
    )
    other = facts["other"]
    strangers = secret.replace(facts["access_key"], other["access_key"]).replace(
        facts["secret_key"], other["secret_key"]
    )
    site = {"roots": [str(tmp_path)], "allow": [f"{bucket}/"], "s3": {"endpoint": facts["url"]}}
    (tmp_path / "in").write_text("data")
    first = null_job(
        name="first",
        command="cp got in",
        inputs=[InputFile(name="got", url=f"file://{tmp_path}/in")],
        outputs=[OutputFile(name="in", url=f"{bucket}/{tmp_path.name}/")],
        credentials=(CredentialUse(name="mine"),),
    )
    with Rig(heartbeat_s=0.5, storage=site) as rig:
        rig.pilot()
        keep(rig, "mine", secret)
        keep(rig, "strangers", strangers)
        (stored,) = ended(rig, first)
        assert stored.state == JobState.FINISHED, stored
        url = rig.client.show(stored.job_id).files[0].url
        jobs = [
            null_job(
                name=name,
                command="grep data got",
                inputs=[InputFile(name="got", url=url)],
                credentials=tuple(CredentialUse(name=one) for one in names),
                max_attempts=1,
            )
            for name, names in (("mine", ["mine"]), ("none", []), ("strangers", ["strangers"]))
        ]
        mine, none, strange = ended(rig, *jobs)
    assert mine.state == JobState.FINISHED, mine
    assert none.state == strange.state == JobState.FAILED
