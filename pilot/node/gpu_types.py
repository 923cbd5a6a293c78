"""What is known of GPUs: of a device, of its driver, and of how busy it is."""

from __future__ import annotations

from msgspec import Struct


class Device(Struct, frozen=True, kw_only=True):
    """A GPU, or an instance of one (MIG)."""

    uuid: str
    model: str
    memory_mb: int
    minor: int
    """Of its device file; of an instance, its GPU's."""
    instances: tuple[Device, ...] = ()


class Driver(Struct, frozen=True, kw_only=True):
    """What NVML tells of a node."""

    version: str
    cuda: str
    """The newest that this driver runs: `12.8`."""
    devices: tuple[Device, ...]


class Load(Struct, frozen=True, kw_only=True, gc=False):
    """How busy devices are together."""

    busy: float
    """Of so many devices, during the last second or so: 1.5 is one and a half."""
    memory_mb: int
