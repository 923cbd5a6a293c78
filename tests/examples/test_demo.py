"""What the demo does before anything starts, and what it makes of what Rucio says in the end."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import asdict

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.submission import check, jobs_from


def module(name: str) -> ModuleType:
    """A file of the example, which is no package."""
    file = Path(__file__).parents[2] / f"examples/z_peak/{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_of_z_peak", file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of the example may import the others by name, during the test."""
    folder = str(Path(__file__).parents[2] / "examples/z_peak")
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.mark.field("H13")
@pytest.mark.parametrize(
    ("prefix", "program", "shown"),
    [
        ("/usr", "/usr/bin/python3.11", []),
        ("/home/ann/py", "/home/ann/py/bin/python3.13", ["/home/ann/py"]),
        ("/home/ann/py", "/opt/py-3.13/bin/python3", ["/home/ann/py", "/opt/py-3.13"]),
    ],
)
def test_payloads_are_shown_the_interpreter_wherever_it_lies(
    beside, tmp_path, prefix, program, shown
):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' {prefix} {program}\n")
    python.chmod(0o755)
    assert module("services").interpreter(python) == shown


@pytest.mark.field("H13")
def test_an_interpreter_that_does_not_run_is_said_before_anything_starts(beside, tmp_path):
    with pytest.raises(AilurusError, match="does not run"):
        module("services").interpreter(tmp_path / "python")


@pytest.mark.field("H10")
def test_a_console_is_named_at_the_end_only_where_it_is_left_running(beside):
    demo = module("demo")
    assert "console/" not in demo.ended(12.0, None)
    assert "--keep" in demo.ended(12.0, None)
    assert "http://127.0.0.1:8080/console/" in demo.ended(12.0, "http://127.0.0.1:8080")


def test_names_stay_whole_where_the_demo_writes_a_log(beside, capsys):
    file = {"did": f"user.alice:{'x' * 60}.root", "size": 1, "adler32": "00000001", "replicas": {}}
    known = {"datasets": [{"did": "user.alice:d", "files": [file]}], "rules": []}
    module("jobs").terminal.print(module("holdings").table_of_replicas(known))
    assert file["did"] in capsys.readouterr().out


def test_the_plain_demo_loads_nothing_for_rucio(beside):
    module("demo")
    assert "setting" in sys.modules
    assert {"experiment", "holdings", "runtime"}.isdisjoint(sys.modules)


def test_an_image_that_is_made_is_told_while_it_is_made_and_why_not_afterwards(beside, capfd):
    script = "echo 'setup: making x.sif' >&2; echo noise >&2; echo 'setup: no room' >&2; exit 3"
    assert importlib.import_module("runtime").told(["sh", "-c", script]) == (3, "setup: no room")
    assert capfd.readouterr().err == "setup: making x.sif\n"


def jobs_on(files: Any, **common: str) -> list[dict[str, Any]]:
    tree = module("workflow").workflow(
        jobs=2,
        events=10,
        python=Path("/python"),
        scripts=Path("/z"),
        files=files,
        common=common,
    )
    jobs = jobs_from(tree, "/")
    check(tuple(jobs))
    return [asdict(job) for job in jobs]


def test_the_workflow_is_the_same_wherever_its_files_are():
    workflow = module("workflow")
    plain = jobs_on(workflow.on_disk(Path("/storage")))
    rucio = jobs_on(workflow.in_rucio(), container="/images/physics.sif")
    assert [job["name"] for job in plain] == [job["name"] for job in rucio]
    assert {job["container"] for job in rucio} == {"/images/physics.sif"}
    outputs = [output for job in rucio for output in job["outputs"]]
    assert {output.scope for output in outputs} == {"user.alice"}
    assert {output.lifetime_s for output in outputs} == {30 * 86_400}
    assert {output.dataset for output in outputs} == {
        "user.alice:zmumu.simulated",
        "user.alice:zmumu.ntuples",
        "user.alice:zmumu.results",
    }
    (select,) = (job for job in rucio if job["name"] == "select")
    assert [one.url for one in select["inputs"]] == ["rucio://data:zmumu.recorded"]
    assert "--input zmumu.recorded/uproot-Zmumu.root" in select["command"]


CONTENT = b"muons"
DID = "user.alice:1.1.mc_1.root"


def known(**changed: Any) -> dict[str, Any]:
    """What Rucio says of one file in one data set."""
    file = {
        "did": DID,
        "size": len(CONTENT),
        "adler32": f"{zlib.adler32(CONTENT):08x}",
        "replicas": {"root://localhost:1//store/mc_1.root": "ROOT"},
    }
    rule = {"did": DID, "where": "ROOT", "state": "OK", "until": ""}
    names = {name: changed.pop(name, value) for name, value in {**file, **rule}.items()}
    file, rule = ({name: names[name] for name in one} for one in (file, rule))
    dataset = {"did": "user.alice:set", "open": changed.pop("open", False), "files": [file]}
    assert not changed
    return {"datasets": [dataset], "rules": [rule]}


@pytest.mark.parametrize(
    ("changed", "reported", "fault"),
    [
        ({}, {}, None),
        ({"open": True}, {}, "user.alice:set is still open"),
        ({"state": "STUCK"}, {}, f"the rule for {DID} at ROOT is STUCK"),
        ({"replicas": {}}, {}, f"{DID} has no replica"),
        ({"size": 4}, {DID: (4, f"{zlib.adler32(CONTENT):08x}")}, "is not what Rucio has"),
        ({"adler32": "00000001"}, {DID: (5, "00000001")}, "is not what Rucio has"),
        ({}, {DID: (5, "00000001")}, "its pilot reported (5, '00000001')"),
        ({}, {"user.alice:2.1.mc_2.root": (5, "00000001")}, "is in no data set"),
    ],
)
def test_what_is_not_as_it_should_be_is_told(beside, tmp_path, changed, reported, fault):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/mc_1.root").write_bytes(CONTENT)
    found = list(module("holdings").differences(known(**changed), reported, tmp_path))
    assert len(found) == (0 if fault is None else 1)
    assert all(fault in one for one in found)


def test_traces_tell_which_way_files_went(beside):
    traces = [
        {"eventType": what, "protocol": scheme, "clientState": state}
        for what, scheme, state in (
            ("download", "davs", "DONE"),
            ("download", "root", "FAILED"),
            ("upload", "root", "DONE"),
            ("upload", "root", "DONE"),
        )
    ]
    assert module("holdings").moved(traces) == "1 read by davs, 2 written by root"


def test_a_directory_in_which_no_service_could_run_is_refused(beside, tmp_path):
    fits = module("experiment").fits
    for name, why in (("a b", "cannot name"), ("x" * 100, "too long for a socket")):
        (tmp_path / name).mkdir()
        with pytest.raises(AilurusError, match=why):
            fits(tmp_path / name)
