"""What of a node belongs to this process: cgroups of both versions, whatever their periods."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from pilot.node import machine
from tests.pilot.node.test_gpus import nvidia_node

HUGE = "9223372036854771712\n"
"""No limit, as cgroup v1 writes it."""


def node(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2 = "0::/slurm/job_1/step_0\n"
V1 = "4:memory:/slurm/job_1\n3:cpuset:/\n1:cpu,cpuacct:/slurm/job_1\n0::/\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        (V2, {"slurm/job_1/step_0/cpu.max": "400000 100000\n"}, 4),
        (V2, {"slurm/job_1/step_0/cpu.max": "20000 10000\n"}, 2),
        (V2, {"slurm/job_1/step_0/cpu.max": "3500000 1000000\n"}, 3),
        (V2, {"slurm/job_1/step_0/cpu.max": "max 100000\n", "slurm/cpu.max": "500000 100000\n"}, 5),
        (V2, {"slurm/job_1/step_0/cpu.max": "800000 100000", "cpu.max": "600000 100000\n"}, 6),
        (V1, {"cpu/slurm/job_1/cpu.cfs_quota_us": "40000\n", "cpu/slurm/job_1/cpu.cfs_period_us": "10000\n"}, 4),
        (V1, {"cpu/slurm/job_1/cpu.cfs_quota_us": "-1\n", "cpu/slurm/job_1/cpu.cfs_period_us": "100000\n",
              "cpu/slurm/cpu.cfs_quota_us": "700000\n", "cpu/slurm/cpu.cfs_period_us": "100000\n"}, 7),
    ],
)  # fmt: skip
def test_the_smallest_quota_of_a_cgroup_and_those_above_it_counts(tmp_path, cgroup, files, cpus):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert machine.cpu_quota(node(tmp_path, cgroup, files)) == cpus


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        (V2, {"slurm/job_1/step_0/memory.max": "max\n", "slurm/job_1/memory.max": "2147483648\n"}, 1 << 31),
        (V2, {"slurm/job_1/step_0/memory.max": "1048576\n", "slurm/memory.max": "2147483648\n"}, 1 << 20),
        (V1, {"memory/slurm/job_1/memory.limit_in_bytes": HUGE, "memory/memory.limit_in_bytes": "4096\n"}, 4096),
    ],
)  # fmt: skip
def test_the_smallest_limit_on_memory_counts(tmp_path, cgroup, files, limit):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert machine.memory_limit_bytes(node(tmp_path, cgroup, files)) == limit


def test_without_cgroups_nothing_is_limited(tmp_path):
    assert machine.cpu_quota(tmp_path) >= 1 << 20
    assert machine.memory_limit_bytes(tmp_path) >= 1 << 62


def test_an_inventory_names_its_cpus_and_counts_no_more_cores_than_they_are(tmp_path):
    seen = machine.look(tmp_path, environment={}, root=tmp_path)
    assert set(seen.cpus) == os.sched_getaffinity(0)
    assert seen.resources.cores == len(seen.cpus)
    assert seen.gpus == ()


def test_a_part_of_a_cpu_is_still_one_core(tmp_path):
    root = node(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "10000 100000\n"})
    assert machine.look(tmp_path, environment={}, root=root).resources.cores == 1


def test_gpus_know_the_pipes_of_the_sites_mps_where_it_is(tmp_path, caplog):
    nvidia_node(tmp_path)
    (tmp_path / "mps").mkdir()
    look = partial(machine.look, tmp_path, environment={}, root=tmp_path)
    assert {gpu.mps for gpu in look().gpus} == {""}
    assert {gpu.mps for gpu in look(mps="/mps").gpus} == {"/mps"}
    assert {gpu.mps for gpu in look(mps="/other").gpus} == {""}
    assert "mps_missing" in caplog.text
