"""NVIDIA's management library, as far as the pilot asks it: what devices there are, and how busy
they are. Where there is no driver there is no library, and no answer.

https://docs.nvidia.com/deploy/nvml-api: each call returns 0 if it went well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any

from pilot.node.gpu_types import Device, Driver, Load

LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", c_uint), ("memory", c_uint))


class _Refused(Exception):
    """A call that did not go well."""


class Nvml:
    """The library, ready."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def driver(self) -> Driver:
        """What it tells. What a device does not tell is 0 or empty."""
        count, number = c_uint(), c_int()
        self._ask("nvmlDeviceGetCount_v2", byref(count))
        found = []
        for index in range(count.value):
            handle = c_void_p()
            # One that fell off the bus has no handle.
            if self._told("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(handle)):
                found.append(self._device(handle))
        self._told("nvmlSystemGetCudaDriverVersion_v2", byref(number))
        cuda = f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else ""
        version = self._text("nvmlSystemGetDriverVersion")
        return Driver(version=version, cuda=cuda, devices=tuple(found))

    def load(self, uuids: tuple[str, ...]) -> Load:
        """How busy these devices are. NVML tells of an instance only its memory."""
        busy, memory = 0.0, 0
        for uuid in uuids:
            handle, rates = c_void_p(), _Rates()
            if not self._told("nvmlDeviceGetHandleByUUID", c_char_p(uuid.encode()), byref(handle)):
                continue
            if self._told("nvmlDeviceGetUtilizationRates", handle, byref(rates)):
                busy += rates.gpu / 100
            memory += self._memory(handle).used >> 20
        return Load(busy=busy, memory_mb=memory)

    def close(self) -> None:
        self._library.nvmlShutdown()

    def _device(self, handle: c_void_p) -> Device:
        minor = c_uint()
        self._told("nvmlDeviceGetMinorNumber", handle, byref(minor))
        return Device(
            uuid=self._text("nvmlDeviceGetUUID", handle),
            model=self._text("nvmlDeviceGetName", handle),
            memory_mb=self._memory(handle).total >> 20,
            minor=minor.value,
            instances=tuple(self._instances(handle, minor.value)),
        )

    def _instances(self, handle: c_void_p, minor: int) -> Iterator[Device]:
        current, pending, most = c_uint(), c_uint(), c_uint()
        if not self._told("nvmlDeviceGetMigMode", handle, byref(current), byref(pending)):
            return
        if not current.value:
            return
        self._told("nvmlDeviceGetMaxMigDeviceCount", handle, byref(most))
        for index in range(most.value):
            part = c_void_p()
            name = "nvmlDeviceGetMigDeviceHandleByIndex"
            if self._told(name, handle, c_uint(index), byref(part)):
                yield Device(
                    uuid=self._text("nvmlDeviceGetUUID", part),
                    model=self._text("nvmlDeviceGetName", part),
                    memory_mb=self._memory(part).total >> 20,
                    minor=minor,
                )

    def _memory(self, handle: c_void_p) -> _Memory:
        found = _Memory()
        self._told("nvmlDeviceGetMemoryInfo", handle, byref(found))
        return found

    def _text(self, name: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        self._told(name, *arguments, buffer, c_uint(_TEXT_BYTES))
        return buffer.value.decode("utf-8", "replace")

    def _told(self, name: str, *arguments: Any) -> bool:
        """Whether a call went well; an older library does not have each."""
        try:
            self._ask(name, *arguments)
        except (_Refused, AttributeError):
            return False
        return True

    def _ask(self, name: str, *arguments: Any) -> None:
        if number := getattr(self._library, name)(*arguments):
            raise _Refused(f"{name}: {number}")


def loaded(name: str = LIBRARY) -> Nvml | None:
    """The library, ready; None: there is no driver, or it does not work."""
    try:
        library = ctypes.CDLL(name)
        if library.nvmlInit_v2():
            return None
    except (OSError, AttributeError):
        return None
    return Nvml(library)


@contextmanager
def opened(name: str = LIBRARY) -> Iterator[Nvml | None]:
    """As `loaded`, for a few questions."""
    nvml = loaded(name)
    try:
        yield nvml
    finally:
        if nvml is not None:
            nvml.close()


def driver(name: str = LIBRARY) -> Driver | None:
    """What the driver of this node tells; None: there is none."""
    with opened(name) as nvml:
        try:
            return None if nvml is None else nvml.driver()
        except (_Refused, AttributeError):
            return None
