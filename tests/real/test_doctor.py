"""The doctor tries real storage, a real catalogue and real containers as jobs do, and leaves
nothing; credentials that are renewed reach a pilot that runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.rig import rucio as at
from tests.rig.programs import BIN, QUEUE, Rig
from tests.rig.services import Service, busybox_image
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def examined(tmp_path):
    """What the doctor says of a site, by what it is about."""

    def ask(*words: object, ca: str = "", **parts: Any) -> dict[str, dict[str, str]]:
        token = tmp_path / "edge.token"
        token.touch(0o600)
        token.write_text("t")
        dispatcher = {"url": "http://127.0.0.1:9", "token_file": str(token)}
        slot = {"queue": "q", "cores": 1, "memory": "1GiB", "disk": "1GiB", "walltime": "1h"}
        site = {
            "schema": 1,
            "site": "here",
            "extends": "local",
            "dispatcher": {**dispatcher, **({"ca": ca} if ca else {})},
            "paths": {"work": str(tmp_path / "work"), "state": str(tmp_path / "state")},
            "slots": {"std": slot},
            "scaling": {"max_total": 1},
            **parts,
        }
        file = tmp_path / "site.yaml"
        file.write_text(json.dumps(site))
        argv = [BIN / "harvester-edge", "doctor", "--config", file, "--json", *words]
        ran = subprocess.run([*map(str, argv)], capture_output=True, timeout=150, check=False)
        assert ran.returncode in (0, 78), ran.stderr
        return {one["about"]: one for one in json.loads(ran.stdout)["findings"]}

    return ask


def left(directory: str | Path) -> list[Path]:
    """Files of probes that are still there."""
    return list(Path(directory).rglob("*ailurus-probe*"))


@pytest.mark.parametrize("plugin", ["http", "gfal2"])
@pytest.mark.parametrize("node", [(), ("--node",)])
def test_root_and_davs_are_written_read_compared_and_removed(xrootd, examined, plugin, node):
    facts = xrootd.facts
    root, davs = f"{facts['root']}/doctor/", f"{facts['davs']}/doctor/"
    trust = {"ca_dir": facts["ca_dir"], "ca": facts["ca_file"]}
    storage = {
        "default_output": root,
        "alternative_output": davs,
        "allow": [root, davs],
        "http_allow": [davs],
        "plugins": {"davs": plugin},
        "xrootd": trust,
        "gfal2": trust,
    }
    found = examined(*node, ca=facts["ca_file"], storage=storage)
    for url in (root, davs):
        assert found.get(f"storage {url}", {}).get("verdict") == "good", found
        assert "adler32 compared" in found[f"storage {url}"]["said"]
    assert found["probe"]["verdict"] == "good"
    assert left(facts["store"]) == []


def test_a_server_that_is_away_is_told_for_each_place(xrootd, examined):
    root, davs = f"{xrootd.facts['root']}/doctor/", f"{xrootd.facts['davs']}/doctor/"
    storage = {"default_output": root, "alternative_output": davs, "allow": [root]}
    xrootd.ask("down")
    try:
        found = examined(storage={**storage, "http_allow": [davs]})
    finally:
        xrootd.ask("up")
    for url in (root, davs):
        assert found[f"storage {url}"]["verdict"] == "bad"
        assert found[f"storage {url}"]["remedy"]
    assert found["container"]["about"] == "container"


@pytest.mark.parametrize(
    ("scope", "seconds", "verdict"),
    [
        ("storage.read:/ storage.modify:/", 600, "good"),
        ("storage.read:/", 600, "bad"),
        ("storage.read:/ storage.modify:/", -60, "bad"),
    ],
)
def test_a_token_that_may_not_write_is_told_and_not_shown(
    xrootd, examined, tmp_path, scope, seconds, verdict
):
    token = xrootd.ask("token", scope, seconds)
    (file := tmp_path / "bt").touch(0o600)
    file.write_text(token)
    root = f"{xrootd.facts['token']['root']}/doctor/"
    found = examined(
        credentials={"wlcg": str(file)},
        storage={
            "default_output": root,
            "allow": [root],
            "xrootd": {"ca_dir": xrootd.facts["ca_dir"], "token_file": "credential:wlcg"},
        },
    )
    assert found[f"storage {root}"]["verdict"] == verdict, found
    assert found["credential wlcg"]["verdict"] == ("bad" if seconds < 0 else "good")
    assert token.split(".")[1] not in json.dumps(found)
    assert left(xrootd.facts["store"]) == []


def test_a_token_that_is_looked_for_is_tried_as_it_is_found(xrootd, examined, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN", token := xrootd.ask("token"))
    root = f"{xrootd.facts['token']['root']}/doctor/"
    found = examined(
        storage={
            "default_output": root,
            "allow": [root],
            "xrootd": {"ca_dir": xrootd.facts["ca_dir"], "token_file": "wlcg-discovery"},
        },
    )
    assert found[f"storage {root}"]["verdict"] == "good", found
    assert token.split(".")[1] not in json.dumps(found)
    assert left(xrootd.facts["store"]) == []


def test_objects_of_s3_are_written_read_compared_and_removed(ceph, examined, tmp_path):
    pytest.importorskip("botocore")
    facts = ceph.facts

    def asked(account: dict[str, str]) -> dict[str, str]:
        (keys := tmp_path / f"keys-{account['access_key']}").touch(0o600)
        keys.write_text(
            f"[default]\naws_access_key_id={account['access_key']}\n"
            f"aws_secret_access_key={account['secret_key']}\n"
        )
        place = f"s3://{facts['bucket']}/doctor/"
        s3 = {"endpoint": facts["url"], "keys_file": str(keys)}
        found = examined(storage={"default_output": place, "allow": [place], "s3": s3})
        assert account["secret_key"] not in json.dumps(found)
        return found[f"storage {place}"]

    mine = asked(facts)
    assert mine["verdict"] == "good", mine
    assert "adler32 compared" in mine["said"]
    denied = asked(facts["other"])
    assert (denied["verdict"], "keys_file" in denied["remedy"]) == ("bad", True), denied


SCHEMES = {"ROOT": "root", "DAVS": "davs", "POSIX": "file"}


@pytest.mark.parametrize("rse", SCHEMES)
def test_rucio_knows_the_account_and_takes_files_that_nobody_registers(rucio, examined, rse):
    scheme = SCHEMES[rse]
    storage = at.storage(rucio, rse)
    del storage["default_output"]
    storage["protocols"] = {"read_lan": [scheme], "write_lan": [scheme]}
    found = examined(ca=rucio.facts["xrootd"]["ca_file"], storage=storage)
    assert "knows the account pilot" in found["catalogue"]["said"]
    assert f"storage {rse} can be read and written" in found["catalogue"]["said"]
    one = found[f"storage {rse} by {scheme}"]
    assert one["verdict"] == "good", one
    assert at.everything(rucio, "user.ailurus", "ailurus-probe") == {}
    assert left(rucio.directory / "storage") + left(rucio.facts["xrootd"]["store"]) == []


def test_an_account_and_a_storage_that_rucio_does_not_know_or_has_closed(rucio, examined, tmp_path):
    storage = at.storage(rucio, "POSIX")
    unknown = examined(storage={**storage, "rse": "NOWHERE"})
    assert (unknown["catalogue"]["verdict"], "RSENotFound" in unknown["catalogue"]["said"]) == (
        "bad",
        True,
    )
    assert unknown["catalogue"]["remedy"] == "name an RSE of Rucio: storage.rse"
    config = Path(storage["rucio"]["config"]).read_text(encoding="utf-8")
    (wrong := tmp_path / "rucio.cfg").touch(0o600)
    # Nor the token that Rucio's client has kept since the last password.
    config = config.replace("accounts/pilot/token", "accounts/pilot/none")
    wrong.write_text(config.replace("pilot-secret", "another"), encoding="utf-8")
    found = examined(storage={**storage, "rucio": {"config": str(wrong)}})
    assert (found["catalogue"]["verdict"], found["storage POSIX"]["verdict"]) == ("bad", "bad")
    assert "storage.rucio" in found["catalogue"]["remedy"]
    at.administer(rucio, "client.update_rse('POSIX', {'availability_write': False})")
    try:
        closed = examined(storage=storage)["catalogue"]
    finally:
        at.administer(rucio, "client.update_rse('POSIX', {'availability_write': True})")
    assert closed["said"] == "storage POSIX is closed for writing in Rucio"
    assert "administrators" in closed["remedy"]


def test_the_sites_image_is_started(need, examined, tmp_path):
    (images := tmp_path / "images").mkdir()
    image = busybox_image(need, images)
    found = examined(container={"images": [str(images)]})
    assert (found["container"]["verdict"], str(image) in found["container"]["said"]) == (
        "good",
        True,
    ), found
    image.write_bytes(b"no image" * 1000)
    found = examined("--image", image, container={"images": [str(images)]})
    assert found["container"]["verdict"] == "bad"
    assert found["container"]["remedy"]


def test_the_sites_image_is_started_by_apptainer(apptainer, need, examined, tmp_path):
    (images := tmp_path / "images").mkdir()
    image = busybox_image(need, images)
    site = {"default": "apptainer", "apptainer": str(apptainer.parent), "images": [str(images)]}
    found = examined(container=site)
    assert found["container"]["verdict"] == "good", found
    assert f"apptainer ran a program in {image}" in found["container"]["said"]
    nowhere = examined(container={**site, "apptainer": str(tmp_path)})["container"]
    assert nowhere["verdict"] == "bad"
    assert "container.apptainer" in nowhere["remedy"]


def test_a_pilot_that_runs_moves_files_with_what_was_renewed(xrootd: Service, tmp_path):
    """The issuer's key changes between two jobs of one pilot: the first token opens nothing any
    more."""
    root = f"{xrootd.facts['token']['root']}/renewed/"
    source = tmp_path / "bt"

    def renew() -> str:
        # As programs that renew do: half of it stands there for a while.
        source.unlink(missing_ok=True)
        source.touch(0o600)
        token = xrootd.ask("token")
        source.write_text(token[:100])
        source.write_text(token)
        return token

    renew()
    storage = {
        "default_output": root,
        "allow": [root],
        "xrootd": {"ca_dir": xrootd.facts["ca_dir"], "token_file": "credential:wlcg"},
    }
    with Rig(heartbeat_s=0.5, storage=storage, credentials={"wlcg": str(source)}) as rig:
        job = {
            "name": "j",
            "queue": QUEUE,
            "command": "echo x > out",
            "outputs": [{"name": "out"}],
            "max_attempts": 1,
        }

        def finishes() -> int:
            (job_id,) = rig.client.submit([job]).job_ids
            rig.client.wait([job_id], 60)
            shown = rig.client.show(job_id)
            assert shown.row.state == "finished", shown.row.diagnosis
            return shown.attempts[-1].worker_id

        rig.start_edge()
        first = finishes()
        xrootd.ask("revoke")
        token = renew()
        copy = rig.directory / "state" / "credentials" / "wlcg"
        until(lambda: copy.read_text() == token, 20, "the edge has handed it out")
        assert copy.stat().st_mode & 0o777 == 0o600
        assert finishes() == first
        for log in rig.directory.glob("*.log"):
            assert token not in log.read_text()
