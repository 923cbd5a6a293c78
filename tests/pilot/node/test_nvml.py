"""NVIDIA's management library: asked by a stand-in for it, built here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pilot.node import nvml
from pilot.node.nvml import Device, Driver, Load

SOURCE = Path(__file__).parent / "stub" / "nvml.c"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stand-in for the library of a driver."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    built = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    return str(built)


def part(uuid: str) -> Device:
    return Device(uuid=uuid, model="NVIDIA A100-SXM4-80GB MIG 3g.40gb", memory_mb=40 << 10, minor=1)


def test_it_tells_devices_with_their_instances(library: str) -> None:
    assert nvml.driver(library) == Driver(
        version="570.86.15",
        cuda="12.8",
        devices=(
            Device(uuid="GPU-aaaa", model="NVIDIA H200", memory_mb=144 << 10, minor=0),
            Device(
                uuid="GPU-bbbb",
                model="NVIDIA A100-SXM4-80GB",
                memory_mb=80 << 10,
                minor=1,
                instances=(part("MIG-cccc"), part("MIG-dddd")),
            ),
        ),
    )


def test_it_tells_how_busy_devices_are(library: str) -> None:
    with nvml.opened(library) as found:
        assert found is not None
        assert found.load(("GPU-aaaa", "GPU-bbbb")) == Load(busy=1.5, memory_mb=10 << 10)
        assert found.load(("MIG-dddd", "GPU-gone")) == Load(busy=0.0, memory_mb=2 << 10)


def test_without_a_driver_there_is_no_answer(tmp_path: Path) -> None:
    assert nvml.driver(str(tmp_path / "none.so")) is None
    assert nvml.loaded("libc.so.6") is None
