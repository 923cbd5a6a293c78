"""The workflow of the demo as a job file's tree: what `dispatcher submit` reads. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

DEFAULTS = {"queue": "demo", "cores": 1, "memory": "600M", "disk": "500M", "walltime": "10m"}
RECORDED = {"name": "uproot-Zmumu.root", "size": 178_971, "adler32": "3eaecc1d"}

INPUT = "data:zmumu.recorded"
"""The data set in Rucio that the workflow reads."""
SCOPE, LIFETIME = "user.alice", "30d"
SIMULATED, NTUPLES, RESULTS = "zmumu.simulated", "zmumu.ntuples", "zmumu.results"
"""Those that it fills, in that scope."""


class Files(NamedTuple):
    """How a job file names the files of the workflow."""

    recorded: dict[str, Any] | str
    """The input that holds the recorded data."""
    path: str
    """Where these then are in the job's directory."""
    output: Callable[[str, str], dict[str, str]]
    """An output, by its name and its data set."""


def on_disk(storage: Path) -> Files:
    """Files below a directory of this machine; data sets are unknown there."""
    recorded = {**RECORDED, "url": f"file://{storage}/data/{RECORDED['name']}"}
    out = f"file://{storage}/out"
    return Files(recorded, str(RECORDED["name"]), lambda name, dataset: {"name": name, "url": out})


def in_rucio() -> Files:
    """Files of Rucio, wherever it has them."""

    def output(name: str, dataset: str) -> dict[str, str]:
        place = {"scope": SCOPE, "dataset": f"{SCOPE}:{dataset}", "lifetime": LIFETIME}
        return {"name": name, **place}

    # A data set comes as a directory of its name.
    directory = INPUT.partition(":")[2]
    return Files(f"rucio://{INPUT}", f"{directory}/{RECORDED['name']}", output)


def workflow(
    *,
    jobs: int,
    events: int,
    python: Path,
    scripts: Path,
    files: Files,
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """N simulations and one selection of recorded data, then their merge, then the picture.

    `common`: fields that all jobs have beside the defaults.
    """
    seeds = range(1, jobs + 1)

    def run(script: str, arguments: str) -> str:
        return f"{python} {scripts}/{script} {arguments}"

    simulate = {
        "name": "simulate-{seed}",
        "sweep": {"seed": {"from": 1, "to": jobs}},
        "command": run("generate.py", f"--seed {{seed}} --events {events} --out mc_{{seed}}.root"),
        "outputs": [files.output("mc_{seed}.root", SIMULATED)],
        "priority": 1,
    }
    select = {
        "name": "select",
        "command": run("ntuple.py", f"--input {files.path} --out data.root"),
        "inputs": [files.recorded],
        "outputs": [files.output("data.root", NTUPLES)],
        "priority": 2,
    }
    merge = {
        "name": "merge",
        "depends_on": [f"simulate-{seed}" for seed in seeds],
        "command": run("merge.py", "--out merged.root mc_*.root"),
        "inputs": [f"mc_{seed}.root" for seed in seeds],
        "outputs": [files.output("merged.root", NTUPLES)],
        "disk": "4G",
    }
    picture = "--data data.root --mc merged.root --png z_peak.png --json z_peak.json"
    plot = {
        "name": "plot",
        "depends_on": ["select", "merge"],
        "command": run("plot.py", picture),
        "inputs": ["data.root", "merged.root"],
        "outputs": [files.output(name, RESULTS) for name in ("z_peak.png", "z_peak.json")],
    }
    return {"defaults": {**DEFAULTS, **common}, "jobs": [simulate, select, merge, plot]}
