"""What kind of machine a worker has, beside how much of it is free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from ailurus.protocol.fields import Count, Label, Whole

# https://gitlab.com/x86-psABIs/x86-64-ABI: what each level adds, as /proc/cpuinfo calls it.
_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)


MOST_MODELS = 16


class GpuModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GPUs, or instances of GPUs, of one model."""

    count: Count
    vendor: Label = ""
    """`nvidia` or `amd`."""
    model: Label = ""
    """As the driver calls it: `NVIDIA H200`."""
    memory_mb: Whole = 0
    """Of each; 0: the driver does not tell."""


class Hardware(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a worker; where it has several nodes, what they have in common."""

    arch: Label = ""
    """`x86-64`, `x86-64-v2` to `-v4`, `aarch64`, or what the system calls it."""
    gpus: Annotated[tuple[GpuModel, ...], Meta(max_length=MOST_MODELS)] = ()
    """Those of this worker."""
    driver: Label = ""
    """The version of NVIDIA's."""
    cuda: Label = ""
    """The newest version that the driver runs: `12.8`."""


def in_words(hardware: Hardware) -> str:
    """`x86-64-v3, 4 × NVIDIA H200`."""
    gpus = [f"{gpu.count} × {gpu.model or f'{gpu.vendor} GPU'}" for gpu in hardware.gpus]
    return ", ".join([word for word in (hardware.arch, *gpus) if word])


def common(nodes: Collection[Hardware]) -> Hardware:
    """What nodes have in common: the lowest level, driver and CUDA, and the GPUs of all of them."""
    counts: Counter[GpuModel] = Counter()
    for node in nodes:
        for gpu in node.gpus:
            counts[replace(gpu, count=0)] += gpu.count
    names = {node.arch for node in nodes}
    alike = len(names) == 1 or all(name.startswith("x86-64") for name in names)
    with_gpus = [node for node in nodes if node.gpus]
    return Hardware(
        arch=min(names) if alike else "",
        gpus=tuple(replace(gpu, count=count) for gpu, count in counts.items())[:MOST_MODELS],
        driver=min((node.driver for node in with_gpus), key=_numbers, default=""),
        cuda=min((node.cuda for node in with_gpus), key=_numbers, default=""),
    )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal() and len(part) < 10]


def architecture(machine: str, flags: Collection[str]) -> str:
    """What a machine is, by what uname(2) calls it and the flags of /proc/cpuinfo."""
    if machine != "x86_64":
        return machine
    found = "x86-64"
    for level, needed in _LEVELS:
        if not set(needed.split()) <= set(flags):
            break
        found = level
    return found
