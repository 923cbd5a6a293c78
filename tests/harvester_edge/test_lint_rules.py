"""What of a site contradicts itself, though each key alone is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harvester_edge import lint

RELAY = {"token_file": "/etc/relay.token", "url": "https://login:8443"}
PANDA = {"harvester_id": "h", "pilot_token_file": "/etc/pilot.token"}
LIMITS = {"kind": "slurm", "limits": {"poll": "120s", "grace": "60s"}}
OTHER = {"roots": ["/data"], "default_output": "/other"}
HERE = {**RELAY, "url": "https://127.0.0.1:1"}
EXCLUDE = {"exclude_nodes": True}
HASTY = {"kind": "slurm", "limits": {"poll": "1s"}}
DATA = {"roots": ["/data"]}
OLD = {**PANDA, "dialect": "legacy"}
H200 = {"model": "NVIDIA H200", "memory": "140GiB"}
SLURM = {"backend": {"kind": "slurm"}, "contacts": ["you@example.org"]}
HEAD = {**SLURM, "slots": {"std": {"pilots": "head", "nodes": 4}}}
ONE_NODE = {**SLURM, "slots": {"std": {"pilots": "head"}}}


def allocated(more: dict[str, Any], **allocation: Any) -> dict[str, Any]:
    return {**more, "pilot": {"allocation": allocation}}


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` laid over `base`, map by map."""
    over = {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in more.items()
    }
    return {**base, **over}


def found(tmp_path: Path, tree: dict[str, Any], more: dict[str, Any]) -> set[str]:
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(merged(tree, more)))
    return {f"{fault.rule} {fault.key}" for fault in lint.faults(file)}


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"pilot": {"file": "/pilot"}}, "E024 pilot.program"),
        ({"slots": {"std": {"gpus": 0.5}}}, "E024 slots.std.gpus"),
        ({"slots": {"std": {"gpus": 1.5}}}, "E010 slots.std.gpus"),
        ({"slots": {"std": {"gpus": 1, "machine": {"arch": "x86_64"}}}}, "E024 slots.std.machine"),
        (
            {"slots": {"std": {"machine": {"arch": "x86_64", "gpu": H200}}}},
            "E024 slots.std.machine.gpu",
        ),
        ({"pilot": {"sha256": "0" * 64}}, "E024 pilot.sha256"),
        ({**SLURM, "network": "relay", "relay": HERE}, "W007 relay.url"),
        ({**SLURM, "network": "spool", "relay": RELAY}, "W012 paths.shared"),
        ({"dispatcher": {"panda": PANDA}, "network": "relay", "relay": RELAY}, "E024 network"),
        ({"dispatcher": {"panda": OLD}}, "E024 dispatcher.panda.run_mode"),
        ({"dispatcher": {"panda": PANDA}, "policy": EXCLUDE}, "W003 policy.exclude_nodes"),
        ({**SLURM, "backend": HASTY}, "W002 backend.limits.poll"),
        ({**SLURM, "backend": LIMITS}, "W002 backend.limits.grace"),
        ({"storage": {"http_allow": ["http://h:99999/"]}}, "E010 storage.http_allow[0]"),
        ({"storage": {"default_output": "https://out.example/x"}}, "E026 storage.default_output"),
        ({"storage": OTHER}, "E026 storage.default_output"),
        ({"backend": {"kind": "slurm"}}, "W004 contacts"),
        ({**SLURM, "paths": {"state": "/run/edge"}}, "W005 paths.state"),
        ({**SLURM, "paths": {"shared": "/dev/shm/edge"}}, "W012 paths.shared"),
        ({"paths": {"work": "/usr/lib/work"}}, "E027 paths.work"),
        ({"paths": {"work": "/scratch", "state": "/scratch/state"}}, "E027 paths.work"),
        ({"storage": DATA, "paths": {"state": "/data/state"}}, "E027 storage.roots[0]"),
        ({**HEAD, "backend": {"kind": "htcondor"}}, "E024 slots.std.pilots"),
        (ONE_NODE, "W003 slots.std.pilots"),
        (HEAD, "W012 paths.work"),
        (allocated(SLURM, kind="slurm"), "W003 pilot.allocation"),
        (allocated(HEAD, kind="slrm"), "W009 pilot.allocation.kind"),
        (allocated(HEAD, options={"start": ["ssh", "{node}"]}), "E024 pilot.allocation.options"),
        (allocated(HEAD, kind="slurm", options={"strat": []}), "E020 pilot.allocation.options.strat"),
        (allocated(HEAD, kind="pbs", options={"start": ["ssh"]}), "E020 pilot.allocation.options.start"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_found(tree, tmp_path, more, rule):
    assert rule not in found(tmp_path, tree, {})
    assert rule in found(tmp_path, tree, more)


def test_a_slot_with_one_pilot_for_four_nodes_has_no_faults(tree, tmp_path):
    head = allocated(HEAD, kind="slurm", options={"start": ["ssh", "{node}"]})
    work = {"paths": {"work": "/scratch/work"}}
    assert found(tmp_path, tree, {**head, **work}) == found(tmp_path, tree, {**SLURM, **work})


def test_two_slots_alike_and_a_token_used_twice_are_told(tree, tmp_path):
    alike = {"slots": {"also": dict(tree["slots"]["std"])}}
    assert "W006 slots.std" in found(tmp_path, tree, alike)
    own = tree["dispatcher"]["token_file"]
    relay = {"network": "relay", "relay": {**RELAY, "token_file": own}}
    assert "W008 relay.token_file" in found(tmp_path, tree, relay)
    panda = {"dispatcher": {"panda": {**PANDA, "pilot_token_file": own}}}
    assert "W008 dispatcher.panda.pilot_token_file" in found(tmp_path, tree, panda)
