"""The workflow of the demo as a job file's tree: what `dispatcher submit` reads. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DEFAULTS = {"queue": "demo", "cores": 1, "memory": "600M", "disk": "500M", "walltime": "10m"}
RECORDED = {"name": "uproot-Zmumu.root", "size": 178_971, "adler32": "3eaecc1d"}


def workflow(
    *, jobs: int, events: int, python: Path, scripts: Path, storage: Path
) -> dict[str, Any]:
    """N simulations and one selection of recorded data, then their merge, then the picture."""
    out = f"file://{storage}/out"
    seeds = range(1, jobs + 1)

    def run(script: str, arguments: str) -> str:
        return f"{python} {scripts}/{script} {arguments}"

    simulate = {
        "name": "simulate-{seed}",
        "sweep": {"seed": {"from": 1, "to": jobs}},
        "command": run("generate.py", f"--seed {{seed}} --events {events} --out mc_{{seed}}.root"),
        "outputs": [{"name": "mc_{seed}.root", "url": out}],
        "priority": 1,
    }
    select = {
        "name": "select",
        "command": run("ntuple.py", "--input uproot-Zmumu.root --out data.root"),
        "inputs": [{**RECORDED, "url": f"file://{storage}/data/uproot-Zmumu.root"}],
        "outputs": [{"name": "data.root", "url": out}],
        "priority": 2,
    }
    merge = {
        "name": "merge",
        "depends_on": [f"simulate-{seed}" for seed in seeds],
        "command": run("merge.py", "--out merged.root mc_*.root"),
        "inputs": [f"mc_{seed}.root" for seed in seeds],
        "outputs": [{"name": "merged.root", "url": out}],
        "disk": "4G",
    }
    picture = "--data data.root --mc merged.root --png z_peak.png --json z_peak.json"
    plot = {
        "name": "plot",
        "depends_on": ["select", "merge"],
        "command": run("plot.py", picture),
        "inputs": ["data.root", "merged.root"],
        "outputs": [{"name": "z_peak.png", "url": out}, {"name": "z_peak.json", "url": out}],
    }
    return {"defaults": DEFAULTS, "jobs": [simulate, select, merge, plot]}
