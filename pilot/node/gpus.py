"""The GPUs of a node that the batch system has given to this pilot.

A device is named by its UUID, which no renumbering changes; by its index where it has none.
NVIDIA's come from the driver's files in /proc, their instances, names and memory from its library
(where that does not load, instances from `nvidia-smi -L`), AMD's from
the kernel's list of compute nodes. Of these are taken: what may be opened (a device cgroup forbids
the rest), and of that what the environment names.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol.fields import Label
from ailurus.protocol.hardware import GpuModel
from pilot.node.gpu_types import Device, Driver

log = Log("gpus")
SMI_TIMEOUT_S = 30.0
NO_GPU = frozenset({"", "-1", "none", "void", "nodevfiles"})
"""What a batch system or a container writes where a job has no GPU, in lower case."""
_BY_POSITION = ("GPU_DEVICE_ORDINAL", "_CONDOR_AssignedGPUs")
_BY_NUMBER = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
_NVIDIA_BY_NUMBER = (*_BY_NUMBER, "NVIDIA_VISIBLE_DEVICES")
_NVIDIA_COMMON = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_WHOLE = re.compile(r"GPU (\d+): .*\(UUID: ([^)]+)\)")
_INSTANCE = re.compile(r"\s+MIG .*\(UUID: ([^)]+)\)")
_ORDINAL = re.compile(r"[A-Za-z]*([0-9]{1,9})")
"""`0`, or HTCondor's `CUDA0`."""


class Gpu(Struct, frozen=True, kw_only=True):
    """A GPU, or a MIG instance of one, which is handed out as a whole."""

    name: Label
    """Its UUID, or its index among those that may be opened."""
    number: int
    """Of its device file: the number by which Slurm counts."""
    key: str
    """What names it for all pilots of the node."""
    files: tuple[str, ...]
    """Device files that a payload needs to use it."""
    amd: bool = False
    model: str = ""
    memory_mb: int = 0
    """0: its driver does not tell."""
    mps: str = ""
    """The pipe directory of the MPS by which payloads share it; empty: the driver lets them take
    turns."""


class Seen(Struct, frozen=True, kw_only=True):
    """The GPUs that this pilot may hand out, and what their driver is."""

    gpus: tuple[Gpu, ...]
    driver: str = ""
    """NVIDIA's."""
    cuda: str = ""
    """The newest version of CUDA that it runs."""


Run = Callable[[Sequence[str]], str]
"""Runs a command and returns what it wrote; nothing if it failed."""


def run_command(argv: Sequence[str]) -> str:
    """What a command wrote to its standard output; nothing if it failed or took too long."""
    # Late: few nodes need it.
    import subprocess

    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            encoding="utf-8",
            errors="replace",
            timeout=SMI_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def can_open(path: Path) -> bool:
    """Whether this process may use a device: file modes and its device cgroup decide that at the
    open."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def ask_driver() -> Driver | None:
    """What NVIDIA's library says; None: it is not here."""
    # Late: ctypes is of no use to a node without a GPU.
    from pilot.node import nvml

    return nvml.driver()


def find(
    environment: Mapping[str, str],
    root: Path = Path("/"),
    *,
    run: Run = run_command,
    usable: Callable[[Path], bool] = can_open,
    ask: Callable[[], Driver | None] = ask_driver,
) -> Seen:
    """The GPUs that this pilot may hand out, in the order of the node. `root`: where /proc, /dev
    and /sys are."""
    found = _nvidia_files(root, usable)
    driver = ask() if found else None
    nvidia = _nvidia(root, found, driver, run)
    amd = _amd(root, usable)
    return Seen(
        gpus=(
            *_granted(
                nvidia, environment, ("CUDA_VISIBLE_DEVICES", *_BY_POSITION), _NVIDIA_BY_NUMBER
            ),
            *_granted(amd, environment, ("ROCR_VISIBLE_DEVICES", *_BY_POSITION), _BY_NUMBER),
        ),
        driver=driver.version if driver else "",
        cuda=driver.cuda if driver else "",
    )


def models(gpus: Sequence[Gpu]) -> tuple[GpuModel, ...]:
    """How many there are of each model."""
    counts = Counter(("amd" if gpu.amd else "nvidia", gpu.model, gpu.memory_mb) for gpu in gpus)
    return tuple(
        GpuModel(count=count, vendor=vendor, model=model, memory_mb=memory_mb)
        for (vendor, model, memory_mb), count in counts.items()
    )


def uuids(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Of those that NVIDIA's driver can be asked about."""
    return tuple(gpu.name for gpu in gpus if gpu.name.startswith(("GPU-", "MIG-")) and not gpu.amd)


def visible(gpus: Sequence[Gpu], share: int = 0) -> dict[str, str]:
    """The variables that show a payload its GPUs and no other: empty ones show none. `share`: how
    much of its one GPU is its own, in hundredths; 0: all of each."""
    mps = {}
    if share and gpus and gpus[0].mps:
        mps["CUDA_MPS_PIPE_DIRECTORY"] = gpus[0].mps
        mps["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(share)
    return {
        **mps,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(gpu.name for gpu in gpus if not gpu.amd),
        "ROCR_VISIBLE_DEVICES": ",".join(gpu.name for gpu in gpus if gpu.amd),
    }


def files(gpus: Sequence[Gpu], share: int = 0) -> tuple[str, ...]:
    """What a payload needs to use its GPUs, each path once; with a `share` of one, the pipes of its
    MPS."""
    paths = [file for gpu in gpus for file in gpu.files]
    paths += [gpu.mps for gpu in gpus if share and gpu.mps]
    return tuple(dict.fromkeys(paths))


class _File(NamedTuple):
    """A device file of NVIDIA's, by what the driver says of it in /proc."""

    uuid: str
    number: int
    model: str = ""


def _nvidia_files(root: Path, usable: Callable[[Path], bool]) -> list[_File]:
    """By PCI address, as `nvidia-smi` and CUDA_DEVICE_ORDER=PCI_BUS_ID count them."""
    found: list[_File] = []
    for file in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        fields = _information(file)
        if fields.get("Device Minor", "").isdigit():
            uuid = fields.get("GPU UUID", "")
            # A GPU that the driver has not begun to use yet has question marks for a UUID.
            uuid = "" if "?" in uuid else uuid
            found.append(_File(uuid, int(fields["Device Minor"]), fields.get("Model", "")))
    if not found:
        numbers = (path.name.removeprefix("nvidia") for path in root.glob("dev/nvidia[0-9]*"))
        found = [_File("", number) for number in sorted(int(n) for n in numbers if n.isdigit())]
    return [file for file in found if usable(root / f"dev/nvidia{file.number}")]


def _nvidia(root: Path, found: Sequence[_File], driver: Driver | None, run: Run) -> list[Gpu]:
    if found and driver is None:
        instances = _mig_instances(root, run)
        if instances is None:
            # Which GPUs are divided is not known: a whole one may have parts that another pilot
            # uses.
            log.warning("gpus_unnamed", found=len(found), by="nvidia-smi -L")
            return []
        devices = [_by_hand(file, instances.get(file.uuid, ())) for file in found]
    else:
        devices = list(driver.devices) if driver else []
    told = {device.minor: device for device in devices}
    gpus: list[Gpu] = []
    for uuid, number, model in found:
        node = f"nvidia{number}"
        files = (f"/dev/{node}", *_NVIDIA_COMMON)
        whole = told.get(number) or _by_hand(_File(uuid, number, model), ())
        for part in whole.instances or (whole,):
            divided = part is not whole
            name = part.uuid or uuid or str(len(gpus))
            gpus.append(
                Gpu(
                    name=name,
                    number=number,
                    key=name if divided else node,
                    files=(*files, "/dev/nvidia-caps") if divided else files,
                    model=part.model or model,
                    memory_mb=part.memory_mb,
                )
            )
    return gpus


def _by_hand(file: _File, instances: Iterable[str]) -> Device:
    """A device without the library: its memory is not known."""
    parts = (
        Device(uuid=one, model=file.model, memory_mb=0, minor=file.number) for one in instances
    )
    return Device(
        uuid=file.uuid,
        model=file.model,
        memory_mb=0,
        minor=file.number,
        instances=tuple(parts),
    )


def _information(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _mig_instances(root: Path, run: Run) -> dict[str, list[str]] | None:
    """UUIDs of MIG instances by the UUID of their GPU; None: there are some, and none is named.

    Only `nvidia-smi` does, and it takes its time, so it runs only where the driver shows any.
    """
    if not any(root.glob("proc/driver/nvidia/capabilities/gpu*/mig/gi*")):
        return {}
    named = parse_smi(run(["nvidia-smi", "-L"]))
    return named if any(named.values()) else None


def parse_smi(text: str) -> dict[str, list[str]]:
    """From the text of `nvidia-smi -L`: each GPU's UUID with those of its MIG instances."""
    found: dict[str, list[str]] = {}
    last: list[str] = []
    for line in text.splitlines():
        if whole := _WHOLE.match(line):
            last = found.setdefault(whole[2], [])
        elif instance := _INSTANCE.match(line):
            last.append(instance[1])
    return found


def _amd(root: Path, usable: Callable[[Path], bool]) -> list[Gpu]:
    """AMD's devices in the kernel's order, which is ROCr's."""
    gpus: list[Gpu] = []
    nodes = root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")
    for file in sorted(nodes, key=lambda file: int(file.parent.name)):
        fields = _properties(file)
        render = fields.get("drm_render_minor", 0)
        # A CPU is a node too, without SIMD units. The properties of what is not ours read as
        # nothing.
        if not fields.get("simd_count") or not usable(root / f"dev/dri/renderD{render}"):
            continue
        unique = fields.get("unique_id", 0)
        name = f"GPU-{unique:016x}" if unique else str(len(gpus))
        files = (f"/dev/dri/renderD{render}", "/dev/kfd")
        gpus.append(
            Gpu(
                name=name,
                number=len(gpus),
                key=f"renderD{render}",
                files=files,
                amd=True,
                model=_amd_model(root, file.parent, render),
                memory_mb=_amd_memory_mb(file.parent),
            )
        )
    return gpus


def _amd_model(root: Path, node: Path, render: int) -> str:
    """Its name on the market, or else of its chip."""
    product = root / f"sys/class/drm/renderD{render}/device/product_name"
    for file in (product, node / "name"):
        with suppress(OSError):
            if text := file.read_text("utf-8", "replace").strip():
                return text
    return ""


def _amd_memory_mb(node: Path) -> int:
    """Of its banks in its own memory: 1 is what the CPU sees of it, 2 the rest."""
    banks = (_properties(file) for file in node.glob("mem_banks/*/properties"))
    return sum(b.get("size_in_bytes", 0) for b in banks if b.get("heap_type") in (1, 2)) >> 20


def _properties(file: Path) -> dict[str, int]:
    try:
        pairs = (line.split() for line in file.read_text("utf-8", "replace").splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
    except OSError:
        return {}


def _granted(
    gpus: list[Gpu],
    environment: Mapping[str, str],
    by_position: Sequence[str],
    by_number: Sequence[str],
) -> list[Gpu]:
    """Those that the environment names, by the first of these variables that is set; all if none
    is.

    Numbers in the first variables are positions among the devices that may be opened, in the others
    they are those of the device files.
    """
    for variable in by_position:
        if variable in environment:
            return _named(gpus, environment[variable], dict(enumerate(gpus)))
    for variable in by_number:
        if variable in environment:
            return _named(gpus, environment[variable], {gpu.number: gpu for gpu in gpus})
    return gpus


def _named(gpus: list[Gpu], text: str, by_number: Mapping[int, Gpu]) -> list[Gpu]:
    """The devices of a comma-separated list. An entry that names none, or several, gives
    nothing."""
    if text.strip().lower() == "all":
        return gpus
    found: dict[str, Gpu] = {}
    for entry in text.split(","):
        word = entry.strip()
        if word.lower() in NO_GPU:
            # CUDA too stops at the first entry that is none.
            break
        if ordinal := _ORDINAL.fullmatch(word):
            gpu = by_number.get(int(ordinal[1]))
        else:
            # HTCondor shortens a UUID, and CUDA takes it so.
            matches = [gpu for gpu in gpus if gpu.name.startswith(word)]
            gpu = matches[0] if len(matches) == 1 else None
        if gpu is not None:
            found[gpu.key] = gpu
    return list(found.values())
