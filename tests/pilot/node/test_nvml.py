"""NVIDIA's management library: asked by a stand-in for it, built here."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from pilot.node import nvml
from pilot.node.gpu_loads import GpuLoads
from pilot.node.nvml import Device, Driver, Load
from pilot.node.sampler import Sampler
from pilot.process.proc import Process
from pilot.samples import Sampled
from tests.pilot.fakes import FakeClock, FakeReadings
from tests.rig.waiting import until

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


def test_loads_are_asked_for_beside_and_told_when_they_have_come(library: str) -> None:
    loads = GpuLoads(lambda: nvml.loaded(library))
    until(lambda: loads.of(("GPU-aaaa", "MIG-dddd"), 1000.0) == Load(busy=0.75, memory_mb=12 << 10))
    loads.forget(("GPU-aaaa",))
    assert loads.of(("GPU-aaaa",), 1001.0) is None


def test_a_driver_that_hangs_is_not_waited_for() -> None:
    hangs = threading.Event()
    loads = GpuLoads(lambda: hangs.wait() and None)
    for second in range(20):
        assert loads.of(("GPU-aaaa",), 1000.0 + second) is None
    assert sum(thread.name == "gpus" for thread in threading.enumerate()) == 1
    hangs.set()


class Busy:
    """Two devices, half busy."""

    def of(self, uuids: object, now: float) -> Load:
        return Load(busy=0.5, memory_mb=100)

    def __init__(self) -> None:
        self.forgotten: list[object] = []

    def forget(self, uuids: object) -> None:
        self.forgotten.append(uuids)


def test_a_gpu_is_asked_about_for_as_long_as_somebody_shares_it(tmp_path: Path) -> None:
    loads = Busy()
    sampler = Sampler(FakeClock(), FakeReadings(), loads)
    for key, gpus in (("1.1", ("GPU-a", "GPU-b")), ("2.1", ("GPU-a",))):
        sampler.watch(key, Sampled(memory_kb=1, directory=str(tmp_path), gpus=gpus))
    sampler.forget("1.1")
    sampler.forget("2.1")
    assert loads.forgotten == [["GPU-b"], ["GPU-a"]]


def test_the_work_of_gpus_is_added_up_and_is_a_sign_of_life(tmp_path: Path) -> None:
    clock, readings = FakeClock(), FakeReadings()
    readings.processes = {101: Process(1, 0.0, 0)}
    sampler = Sampler(clock, readings, Busy())
    sampler.watch("1.1", Sampled(memory_kb=1, directory=str(tmp_path), gpus=("GPU-a", "GPU-b")))
    sampler.started("1.1", 1, lambda: 101)
    (sample,) = sampler.look(clock.now + 10)
    assert (sample.gpu_s, sample.gpu_memory_mb) == (5.0, 100)
    (sample,) = sampler.look(clock.now + 30)
    assert sample.gpu_s == 15.0
