"""`pilot --probe` tries what jobs use, leaves nothing, and says what would help."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from pilot.probe import grouped, places
from pilot.site import Protocols, Storage
from tests.rig.programs import BIN

MARK = "0123"


def named(storage: Storage) -> list[str]:
    return [place.name for place in places(storage, MARK)]


def test_outputs_go_where_jobs_send_them_and_where_they_may():
    storage = Storage(
        default_output="davs://door/out/",
        alternative_output="root://other//out/",
        allow=("root://other//", "s3://bucket/"),
        http_allow=("https://door/",),
    )
    found = places(storage, MARK)
    assert [place.name for place in found] == [
        "davs://door/out/", "root://other//out/", "s3://bucket/",
    ]  # fmt: skip
    assert [place.needed for place in found] == [True, True, False]
    # An output that is refused at one place must not end up at another.
    assert {place.storage.alternative_output for place in found} == {""}
    assert [place.storage.default_output for place in found][1] == "root://other//out/"


def test_what_is_left_over_goes_where_no_job_may_send_anything():
    storage = Storage(
        default_output="root://door//out/",
        alternative_output="root://other//out/",
        allow=("root://door//",),
    )
    door, other = places(storage, MARK)
    assert door.storage.allow == ("root://door//",)
    assert other.storage.allow == ("root://door//", "root://other//out/")


def test_storage_of_rucio_is_tried_by_each_protocol_that_the_site_names():
    protocols = Protocols(read_lan=("root", "davs"), write_lan=("davs",), write_wan=("srm",))
    storage = Storage(rse="RSE", rucio={"account": "pilot"}, protocols=protocols)
    davs, root = places(storage, MARK)
    assert (davs.name, davs.storage.protocols.write_lan) == ("RSE by davs", ("davs",))
    assert davs.storage.protocols.read_lan == ("davs",)
    # What is only read is written by another.
    assert (root.name, root.storage.protocols.write_lan) == ("RSE by root", ("davs",))
    assert root.storage.protocols.read_lan == ("root",)
    assert (root.output.scope, root.storage.rucio["traces"]) == ("user.pilot", False)
    assert named(Storage(rse="RSE")) == ["RSE"]


def test_roots_are_tried_where_they_can_be_written(tmp_path):
    (store := tmp_path / "store").mkdir()
    assert named(Storage(roots=(str(store), str(tmp_path / "none")))) == [f"file://{store}"]
    inside = Storage(roots=(str(store),), default_output=f"file://{store}/out/")
    assert named(inside) == [f"file://{store}/out/"]


def probed(folder: Path, **site: Any) -> dict[str, dict[str, str]]:
    """What a pilot says of a site, by what it is about."""
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump(site), encoding="utf-8")
    words = [BIN / "pilot", "--probe", "-q", "q", "--site", file, "-a", folder / "work"]
    ran = subprocess.run(words, check=True, capture_output=True, timeout=60)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert lines[-1]["about"] == "probe"
    return {line["about"]: line for line in lines}


def test_nothing_stays_of_what_was_tried(tmp_path):
    (store := tmp_path / "store").mkdir()
    url = f"file://{store}/"
    found = probed(
        tmp_path,
        storage={"roots": [str(store)], "default_output": url},
        container={"default": "bare", "bare": True},
    )
    assert {one["verdict"] for one in found.values()} == {"good"}
    assert "wrote, read and removed 64 KiB" in found[f"storage {url}"]["said"]
    assert "bare ran a program" in found["container"]["said"]
    assert list(store.iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_what_fails_says_what_was_tried_and_what_would_help(tmp_path):
    file = tmp_path / "file"
    file.write_text("no directory")
    found = probed(
        tmp_path,
        storage={"roots": [str(tmp_path)], "default_output": f"file://{file}/out/"},
        container={"default": "bare"},
    )
    storage, container = found[f"storage file://{file}/out/"], found["container"]
    assert (storage["verdict"], container["verdict"]) == ("bad", "bad")
    assert storage["said"].startswith("cannot write: ")
    assert storage["remedy"]
    assert "container: {bare: true}" in container["remedy"]
    assert file.read_text() == "no directory"


def test_a_site_without_storage_has_only_its_container_tried(tmp_path):
    found = probed(tmp_path, container={"default": "bare", "bare": True})
    assert found.keys() == {"container", "launchers", "probe"}


def test_launchers_tell_what_they_found_where_jobs_run(tmp_path):
    found = probed(tmp_path, container={"default": "bare", "bare": True})["launchers"]
    assert found["verdict"] == "good", found
    assert found["said"].startswith("the node's own system: ")


def test_an_srun_without_a_slurm_is_told_to_start_no_ranks(tmp_path, monkeypatch):
    srun = tmp_path / "bin/srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\necho no configuration >&2\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    found = probed(tmp_path, container={"default": "bare", "bare": True})["launchers"]
    assert "; no ranks by srun (" in found["said"]


def test_names_of_one_program_stand_behind_what_it_is():
    lines = "MPICH 5.0.2\tmpirun\nsome warning\nMPICH 5.0.2\tmpiexec\nray 2.60.0\tray\n"
    assert grouped(lines) == ["MPICH 5.0.2 (mpirun, mpiexec)", "ray 2.60.0 (ray)"]
