"""What this process may use of its node: CPUs, memory, disk and GPU devices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol.hardware import Hardware, architecture
from ailurus.protocol.resources import Resources
from pilot.node import gpus, topology
from pilot.node.gpus import Gpu
from pilot.node.topology import Cpu
from pilot.site import GpusChoice, Site, SlotChoice, megabytes

log = Log("machine")
ROOT = Path("/")


class Inventory(Struct, frozen=True, kw_only=True):
    """What is here, each CPU and each GPU by its name."""

    resources: Resources
    cpus: tuple[int, ...]
    """Those that this process may run on; a quota may leave it less time than they have."""
    gpus: tuple[Gpu, ...]
    hardware: Hardware = Hardware()


def look(
    workdir: Path,
    *,
    mps: str = "",
    environment: Mapping[str, str] = os.environ,
    root: Path = ROOT,
) -> Inventory:
    """What the batch system gave: affinity (which is within the cpuset), cgroups and the
    environment before what the hardware has. Raises OSError if `workdir` is on no disk. `mps`: the
    pipe directory of the MPS by which NVIDIA's GPUs are shared; `root`: where /proc, /sys and /dev
    are."""
    disk = os.statvfs(workdir)
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    seen = gpus.find(environment, root)
    resources = Resources(
        cores=max(1, min(len(cpus), cpu_quota(root))),
        memory_mb=min(_memory_bytes(), memory_limit_bytes(root)) >> 20,
        disk_mb=disk.f_bavail * disk.f_frsize >> 20,
        gpus=len(seen.gpus),
    )
    hardware = Hardware(
        arch=architecture(os.uname().machine, _flags(root)),
        driver=seen.driver,
        cuda=seen.cuda,
    )
    devices = seen.gpus
    if mps and devices and not (root / mps.lstrip("/")).is_dir():
        log.warning("mps_missing", directory=mps)
    elif mps:
        devices = tuple(gpu if gpu.amd else replace(gpu, mps=mps) for gpu in devices)
    return Inventory(resources=resources, cpus=cpus, gpus=devices, hardware=hardware)


def hardware_with(seen: Inventory, devices: Sequence[Gpu]) -> Hardware:
    """What kind of machine it is for a pilot that has these of its GPUs."""
    return replace(seen.hardware, gpus=gpus.models(devices))


def _flags(root: Path) -> list[str]:
    """What the first CPU can do."""
    try:
        fd = os.open(root / "proc/cpuinfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        # The kernel asks each CPU of which more is read.
        text = os.read(fd, 4096).decode("ascii", "replace")
    finally:
        os.close(fd)
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return flags.partition(":")[2].split()


def total_of(
    slot: SlotChoice, seen: Resources, gpus: Sequence[Gpu], sharing: GpusChoice
) -> Resources:
    """What there is for jobs on a node: as the slot says, else as the machine shows. `gpus`: its
    devices; they are shared if the site says so, and its MPS, if it has one, is there."""
    shared = bool(gpus) and (not sharing.mps or all(gpu.mps for gpu in gpus))
    return Resources(
        cores=seen.cores if slot.cores is None else slot.cores,
        memory_mb=megabytes(slot.memory, seen.memory_mb),
        disk_mb=megabytes(slot.disk, seen.disk_mb),
        gpus=0 if slot.gpu_part else len(gpus),
        gpu_share=sharing.least if shared else 0,
        gpu_parts=tuple(slot.gpu_part for _ in gpus if slot.gpu_part),
    )


def pinned(site: Site, total: Resources, seen: Inventory) -> Sequence[Cpu]:
    """CPUs to bind payloads to: none unless the site says so and the slot is the whole node."""
    whole = total.cores == seen.resources.cores == len(seen.cpus)
    return topology.look(seen.cpus) if site.pilot.pin and whole else ()


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes(root: Path = ROOT) -> int:
    """The smallest limit on memory of the cgroups of this process."""
    limits = [
        int(text)
        for directory, v2 in _cgroups("memory", root)
        if (text := _text(directory / ("memory.max" if v2 else "memory.limit_in_bytes"))).isdigit()
    ]
    return min(limits, default=1 << 62)


def cpu_quota(root: Path = ROOT) -> int:
    """How many whole CPUs the quotas of the cgroups of this process allow, whatever their
    periods."""
    allowed = [1 << 20]
    for directory, v2 in _cgroups("cpu", root):
        if v2:
            quota, _, period = _text(directory / "cpu.max").partition(" ")
        else:
            quota = _text(directory / "cpu.cfs_quota_us")
            period = _text(directory / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            allowed.append(int(quota) // int(period))
    return min(allowed)


def _cgroups(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """The directories of the cgroups of this process that have a controller, each from its own to
    the top one, and whether they are of version 2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, below = line.split(":", 2)
        top = root / "sys/fs/cgroup"
        v2 = controllers == ""
        if not v2:
            if controller not in controllers.split(","):
                continue
            top /= controller
        here = top / below.lstrip("/")
        for directory in (here, *here.parents):
            yield directory, v2
            if directory == top:
                break


def _text(file: Path) -> str:
    """What is in a file, nothing if it cannot be read."""
    with suppress(OSError):
        return file.read_text("utf-8", "replace").strip()
    return ""
