"""What a site file says of machines: what kind the nodes of a slot are, and how jobs share GPUs."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ailurus.protocol.hardware import GpuModel, Hardware
from ailurus.protocol.machine import Architecture, Cuda, Model, architecture_name
from ailurus.protocol.units import size_mb
from harvester_edge.fields import AbsolutePath, Number, Size


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a site file: a key that is not here is an error."""


GpuCount = Number | Annotated[float, Meta(ge=0.1, le=0.9, description="a part of one: 0.1 to 0.9")]
"""Of a slot. A part of one is for jobs that share it; the batch system is asked for none."""


class GpusPart(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """How jobs share GPUs that ask for a share of one."""

    share: Annotated[int, Meta(ge=1, le=10)] = 1
    """How many of them may be on one GPU; 1: none is shared."""
    mps: AbsolutePath | None = None
    """The pipe directory of the daemon of NVIDIA's MPS that the site runs on its nodes: such jobs
    see it, and how much of the GPU each may use (CUDA_MPS_ACTIVE_THREAD_PERCENTAGE)."""


class GpuPart(_Part, frozen=True, kw_only=True):
    """What each GPU of a slot's nodes is."""

    model: Model
    """As its driver calls it: `NVIDIA H200`."""
    memory: Size
    vendor: Literal["nvidia", "amd"] = "nvidia"
    cuda: Cuda = ""
    """The newest version that the driver runs."""


class MachinePart(_Part, frozen=True, kw_only=True):
    """What kind of machine the nodes of a slot are, all of them. What is left out they have not."""

    arch: Architecture
    gpu: GpuPart | None = None

    def hardware(self, gpus: float) -> Hardware:
        """The same as a pilot with so many GPUs, or with a part of one, tells it."""
        arch, gpu = architecture_name(self.arch), self.gpu
        if gpu is None or not gpus:
            return Hardware(arch=arch)
        model = GpuModel(
            count=math.ceil(gpus), vendor=gpu.vendor, model=gpu.model, memory_mb=size_mb(gpu.memory)
        )
        return Hardware(arch=arch, gpus=(model,), cuda=gpu.cuda)
