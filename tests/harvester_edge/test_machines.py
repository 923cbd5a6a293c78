"""What a site file says of its machines, and what its pilots tell: theirs counts."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from ailurus.protocol.hardware import GpuModel, Hardware
from ailurus.protocol.machine import EachGpu, machine_of
from ailurus.protocol.resources import Shape
from ailurus.protocol.worker import Ending, Phase
from harvester_edge import machines
from harvester_edge.lease import _slots
from harvester_edge.site_machine import GpusPart, MachinePart
from harvester_edge.status import glance

V3 = Shape(machine=machine_of(["x86_64-v3"], None))
V4 = Shape(machine=machine_of(["x86_64-v4"], None))
OLD = Hardware(arch="x86-64-v2")
H200 = GpuModel(count=4, vendor="nvidia", model="NVIDIA H200", memory_mb=143_360)
SAID = Hardware(arch="x86-64-v3", gpus=(H200,), cuda="12.8")


def says(world, **machine):
    slot = world.edge.site.slots["std"]
    slot = replace(slot, machine=msgspec.convert(machine, MachinePart))
    world.edge.site = replace(world.edge.site, slots={"std": slot})


def tells(world, hardware):
    """A pilot of the first order comes, and is another machine."""
    world.batch.set(Phase.ACTIVE)
    world.dispatcher.register(world.batch.orders[0][0], free=1)
    key = next(iter(world.dispatcher.rows))
    world.dispatcher.rows[key] = replace(world.dispatcher.rows[key], hardware=hardware)
    world.cycle()


def test_a_slot_is_as_a_pilot_there_would_tell():
    said = {
        "arch": "x86_64-v3",
        "gpu": {"model": "NVIDIA H200", "memory": "140GiB", "cuda": "12.8"},
    }
    part = msgspec.convert(said, MachinePart)
    assert part.hardware(4) == SAID
    assert part.hardware(0) == Hardware(arch="x86-64-v3")
    assert msgspec.convert({"arch": "arm64"}, MachinePart).hardware(0).arch == "aarch64"


def test_no_pilot_is_started_where_the_file_says_that_the_machine_is_another(world):
    says(world, arch="x86_64-v3")
    world.dispatcher.jobs, world.dispatcher.shape = 1, V4
    decision = world.cycle()
    assert decision.submit == {}
    assert "x86-64-v3 where x86-64-v4 is wanted" in decision.notes[0]
    world.dispatcher.shape = V3
    assert world.cycle().submit == {"std": 1}


def test_a_dispatcher_knows_what_the_file_says(world):
    (slot,) = _slots(world.edge)
    assert slot.hardware is None
    says(world, arch="x86_64-v3")
    (slot,) = _slots(world.edge)
    assert slot.hardware == Hardware(arch="x86-64-v3")


def test_what_a_pilot_tells_counts_after_its_end_too_and_the_difference_is_told(world):
    says(world, arch="x86_64-v3")
    world.dispatcher.jobs, world.dispatcher.shape = 1, V3
    world.cycle()
    assert glance(world.edge.site).wrong_machines == ()
    tells(world, OLD)
    said = "slot std: its pilots tell x86-64-v2, its `machine` says x86-64-v3"
    assert said in world.cycle().inputs
    world.dispatcher.end(world.batch.orders[0][0], Ending.IDLE_EXIT, 0)
    world.batch.set(Phase.ENDED, Ending.DONE)
    world.cycle()
    assert world.cycle().submit == {}
    (slot,) = _slots(world.edge)
    assert slot.hardware == OLD
    now = world.edge.clock()
    assert tuple(machines.wrong(world.edge.book, world.edge.site, now)) == (said,)
    # An odd node does not keep jobs away for ever.
    world.cycle(seconds=machines.KEPT_S + 1)
    assert world.cycle().submit == {"std": 1}


def test_a_file_that_is_corrected_is_believed(world):
    says(world, arch="x86_64-v3")
    world.dispatcher.jobs, world.dispatcher.shape = 1, V3
    world.cycle()
    tells(world, OLD)
    says(world, arch="x86_64-v2")
    world.dispatcher.rows.clear()
    assert machines.known(world.edge.book, world.edge.site, "std", world.edge.clock()) == (OLD,)
    assert not any("its pilots tell" in one for one in world.cycle().inputs)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (SAID, []),
        (replace(SAID, gpus=(replace(H200, count=1),), driver="570.1"), []),
        (Hardware(arch="x86-64-v3"), []),
        (replace(SAID, arch="x86-64-v4"), ["x86-64-v4, its `machine` says x86-64-v3"]),
        (replace(SAID, cuda="12.4"), ["CUDA 12.4, its `machine` says 12.8"]),
        (
            replace(SAID, gpus=(replace(H200, model="NVIDIA A100", memory_mb=40_960),)),
            [
                "4 × NVIDIA A100, its `machine` says NVIDIA H200",
                "40960 MB of GPU memory, its `machine` says 143360 MB",
            ],
        ),
    ],
)
def test_what_pilots_deny_is_said_in_words(told, said):
    assert list(machines.denied(SAID, told)) == said


def test_jobs_for_its_gpus_come_to_a_slot_whose_file_names_them(world):
    slot = replace(world.edge.site.slots["std"], gpus=2)
    world.edge.site = replace(world.edge.site, slots={"std": slot})
    says(world, arch="x86_64-v3", gpu={"model": "NVIDIA H200", "memory": "140GiB"})
    world.dispatcher.jobs = 1
    for model, submitted in (("A100", {}), ("H200", {"std": 1})):
        world.dispatcher.shape = Shape(gpus=1, machine=machine_of([], EachGpu(model=(model,))))
        assert world.cycle().submit == submitted


def test_a_slot_may_have_a_part_of_a_gpu_for_jobs_that_share_it(world):
    slot = replace(world.edge.site.slots["std"], gpus=0.5)
    pilot = replace(world.edge.site.pilot, gpus=GpusPart(share=4))
    world.edge.site = replace(world.edge.site, slots={"std": slot}, pilot=pilot)
    room = world.edge.site.room("std")
    assert (room.gpus, room.gpu_share, room.gpu_parts) == (0, 25, (50,))
    world.dispatcher.jobs, world.dispatcher.shape = 3, Shape(gpus=1, gpu_share=25)
    assert world.cycle().submit == {"std": 3}
