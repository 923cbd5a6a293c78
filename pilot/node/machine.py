"""What is here: CPUs, memory, disk and GPUs that this process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ailurus.protocol.resources import Resources


def look(workdir: Path) -> Resources:
    """The machine as this process sees it: affinity and cgroup before what the hardware has."""
    disk = os.statvfs(workdir)
    return Resources(
        cores=max(1, min(len(os.sched_getaffinity(0)), _cgroup_cpus())),
        memory_mb=min(_memory_bytes(), _cgroup_memory()) >> 20,
        disk_mb=disk.f_bavail * disk.f_frsize >> 20,
        gpus=len(list(Path("/dev").glob("nvidia[0-9]*"))),
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_files(v2: str, controller: str, v1: str) -> list[str]:
    """What the cgroups of this process say, from its own to the top one."""
    texts = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text("utf-8", "replace").splitlines():
            _, controllers, below = line.split(":", 2)
            if controllers == "":
                top, name = Path("/sys/fs/cgroup"), v2
            elif controller in controllers.split(","):
                top, name = Path("/sys/fs/cgroup") / controller, v1
            else:
                continue
            here = top / below.lstrip("/")
            for directory in (here, *here.parents):
                with contextlib.suppress(OSError):
                    texts.append((directory / name).read_text("utf-8"))
                if directory == top:
                    break
    return texts


def _cgroup_memory() -> int:
    limits = _cgroup_files("memory.max", "memory", "memory.limit_in_bytes")
    return min((int(text) for text in limits if text.strip().isdigit()), default=1 << 62)


def _cgroup_cpus() -> int:
    cpus = [1 << 20]
    for text in _cgroup_files("cpu.max", "cpu", "cpu.cfs_quota_us"):
        quota, _, period = text.strip().partition(" ")
        if quota.isdigit():
            cpus.append(-(-int(quota) // int(period or 100_000)))
    return min(cpus)
