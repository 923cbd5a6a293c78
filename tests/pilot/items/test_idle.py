"""Idle cores of a job of items."""

from __future__ import annotations

from ailurus.protocol.resources import Resources
from pilot.items.idle import IdleCores
from pilot.node.lines import Wish
from pilot.node.packing import Packer
from tests.pilot.fakes import FakeClock
from tests.pilot.node.test_occupancy import attempt


def test_what_no_item_had_is_idle_on_the_nodes_that_there_are() -> None:
    clock, job, packer = FakeClock(), attempt(1), Packer[str]()
    each = Resources(cores=4, memory_mb=1000, disk_mb=0)
    packer.join("a", each)
    packer.join("b", each)
    idle = IdleCores(job, packer, clock)
    packer.add("item", Wish(Resources(cores=3, memory_mb=1, disk_mb=0)))
    packer.take()
    clock.forward(2)
    idle.count()
    assert job.unused_core_s == 2 * 5
    packer.leave("b")
    packer.give_back("item")
    clock.forward(1)
    idle.count()
    assert job.unused_core_s == 2 * 5 + 1 * 4
