"""The doctor says what is wrong and what would help, and goes on with the next question."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from harvester_edge import doctor
from harvester_edge.ports import Rejected


@pytest.fixture
def findings(world, tree, tmp_path):
    """What it finds at a site, by what it is about."""

    def examine(**changed):
        file = tmp_path / "site.yaml"
        file.write_bytes(msgspec.json.encode({**tree, **changed}))
        return {one.about: one for one in doctor.examine(file)}

    return examine


def test_one_thing_that_is_wrong_does_not_hide_the_others(findings):
    found = findings()
    assert found["dispatcher"].verdict == "bad"  # nobody listens there
    assert found["state"].verdict == "good"
    assert found["batch system"].verdict == "good"
    assert "shows 0 workers of demo" in found["batch system"].said
    assert found["slot std"].said == "local cannot say beforehand whether it would take a worker"


def test_a_token_that_others_can_read_is_found(findings, tmp_path):
    (tmp_path / "edge.token").chmod(0o644)
    assert "others can use" in findings()["dispatcher"].said


def test_a_pilot_that_cannot_be_started_is_found(findings):
    assert "cannot be executed" in findings(pilot={"program": "/no/such/pilot"})["pilot"].said
    assert "exit code 1" in findings(pilot={"program": "/bin/false"})["pilot"].said


def test_a_full_or_shared_state_directory_is_found(findings, monkeypatch):
    monkeypatch.setattr(doctor, "_filesystem", lambda path: "lustre")
    found = findings()["state"]
    assert "is on lustre" in found.said
    assert found.remedy == "a disk of this machine for paths.state"
    monkeypatch.setattr(doctor, "FREE_MB", 1 << 40)
    assert "MB left" in findings()["shared"].said


def test_a_directory_that_is_not_there_is_told_so(findings, tree, tmp_path):
    (tmp_path / "mount").mkdir()
    paths = {**tree["paths"], "shared": str(tmp_path / "mount/edge/shared")}
    found = findings(paths=paths)["shared"]
    assert f"{tmp_path}/mount/edge/shared is not there yet, {tmp_path}/mount has " in found.said


def test_a_faulty_site_file_is_all_that_is_asked_about(findings):
    assert findings(scaling={}).keys() == {"site file"}


@pytest.mark.field("A11")
def test_directories_of_others_and_of_everybody_are_found(findings, tmp_path, monkeypatch):
    (tmp_path / "state").chmod(0o777)
    found = findings()
    assert (found["state"].verdict, found["shared"].verdict) == ("bad", "bad")
    assert "others can write" in found["state"].said
    (tmp_path / "state").chmod(0o700)
    tmp_path.chmod(0o777)
    found = findings()["state"]
    assert found.verdict == "warning"
    assert f"by {tmp_path}" in found.said
    tmp_path.chmod(0o755)
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    assert "belongs to user" in findings()["state"].said


@pytest.mark.field("H10")
def test_a_state_directory_of_another_site_is_found(findings, world):
    world.cycle()
    assert "is the book of site demo" in findings(site="other")["state"].said


@pytest.mark.field("K2")
def test_a_history_that_fails_or_is_kept_by_nobody_is_found(findings, world, monkeypatch):
    assert findings()["history"].verdict == "good"
    monkeypatch.setattr(doctor, "make_batch", lambda *_: world.batch)
    world.batch.no_history = "sacct: Access denied"
    found = findings()["history"]
    assert (found.verdict, found.said) == ("bad", "sacct: Access denied")
    world.batch.no_history, world.batch.history = "", False
    found = findings()["history"]
    assert found.verdict == "warning"
    assert "counts as lost" in found.said


@pytest.mark.field("K2", "K5")
def test_what_stops_the_edge_is_told(findings, world):
    assert findings()["decision"].said.startswith("none yet")
    world.dispatcher.jobs = 1
    world.cycle()
    assert findings()["decision"].verdict == "good"
    world.batch.answers = [Rejected("say --account, please")]
    world.dispatcher.jobs = 3
    world.cycle()
    found = findings()["decision"]
    assert found.verdict == "warning"
    assert "say --account, please" in found.said


def test_a_pilot_in_a_place_of_others_is_found(findings, tmp_path):
    (place := tmp_path / "software").mkdir()
    (program := place / "pilot").write_text("#!/bin/sh\necho pilot 1\n")
    program.chmod(0o755)
    for option in ("program", "file"):
        place.chmod(0o755)
        assert "others may put" not in findings(pilot={option: str(program)})["pilot"].said
        place.chmod(0o777)
        found = findings(pilot={option: str(program)})["pilot"]
        assert found.verdict == "warning"
        assert f"in the place of {program}, by {place}" in found.said


def test_a_pilot_of_another_user_is_found(findings, tmp_path, monkeypatch):
    (program := tmp_path / "pilot").write_text("#!/bin/sh\necho pilot 1\n")
    program.chmod(0o755)
    stat = Path.stat

    def another(path, **more):
        found = list(stat(path, **more))
        if path == program:
            found[4] = 4321
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", another)
    found = findings(pilot={"program": str(program)})["pilot"]
    assert (found.verdict, "user 4321's" in found.said) == ("warning", True)
