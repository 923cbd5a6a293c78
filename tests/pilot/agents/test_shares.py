"""No node is used wider than the batch system gave it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ailurus import __version__
from ailurus.protocol.resources import Resources
from pilot.agents import messages as a
from pilot.agents import scratch_dir
from pilot.agents.agent import connect
from pilot.agents.allocated import Allocated, Surroundings, within
from pilot.agents.head import Head, Welcoming
from pilot.agents.lease import LeaseTerms
from pilot.agents.link import new_key
from pilot.clock import SYSTEM
from pilot.node_ports import Share
from pilot.site import AgentsChoice, PilotChoice, Site, SlotChoice
from tests.pilot.fakes import FakeContainer, FakeSpawner
from tests.rig.waiting import until


def test_a_name_of_this_node_that_leads_nowhere_is_named() -> None:
    welcoming = Welcoming(
        key=new_key(),
        shares=[Share(name="n1", address="n1.invalid")],
        site=Site(),
        gpus=None,
        terms=LeaseTerms(),
        probe=("", ""),
    )
    with pytest.raises(OSError, match=r"at n1\.invalid, which the batch system calls this node: "):
        Head(welcoming, None, lambda *_: None, lambda *_: None, "n1.invalid")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of_slot", "given", "told"),
    [(None, None, None), (4, None, 4), (None, 1, 1), (4, 1, 1), (1, 2, 1)],
)
def test_an_agent_is_told_of_no_more_gpus_than_slot_and_batch_system_give(
    of_slot: int | None, given: int | None, told: int | None, tmp_path: Path
) -> None:
    """Where the batch system fences no devices in, nothing else keeps it from others' GPUs."""
    welcoming = Welcoming(
        key=new_key(),
        shares=[Share(name="n1", address="n1.invalid", gpus=given)],
        site=Site(),
        gpus=of_slot,
        terms=LeaseTerms(),
        probe=("", ""),
    )
    head = Head(welcoming, None, lambda *_: None, lambda *_: None, "127.0.0.1")  # type: ignore[arg-type]

    def run() -> None:
        while not head.closed:
            head.turn()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        agent = connect(head.at, welcoming.key, lambda: None)
        agent.send(a.Arrived(("n1",), __version__))
        (body,) = until(agent.receive)
        (welcome,) = a.to_agent(body)
        assert isinstance(welcome, a.Welcome)
        assert welcome.gpus == told
        agent.close()
    finally:
        head.close()
        thread.join()


def test_a_node_offers_what_the_batch_system_gave_of_it() -> None:
    seen = Resources(cores=64, memory_mb=500_000, disk_mb=10_000, gpus=4)
    assert within(seen, Share(name="n1", address="n1")) == seen
    share = Share(name="n1", address="n1", cores=4, memory_mb=8000, gpus=1)
    assert within(seen, share) == Resources(cores=4, memory_mb=8000, disk_mb=10_000, gpus=1)


def test_a_head_removes_what_dead_agents_left_on_its_own_node(tmp_path: Path) -> None:
    """Where both an agent and its guardian were killed, and no other agent comes there."""
    (tmp_path / "pilot").mkdir()
    dead, lock = scratch_dir.make(tmp_path / "scratch")
    os.close(lock)
    allocation: Any = SimpleNamespace(
        nodes=lambda: [Share(name=name, address="127.0.0.1") for name in ("n1", "n2")],
        starters=lambda *_, **__: [],
    )
    around = Surroundings(
        site=Site(pilot=PilotChoice(agents=AgentsChoice(scratch=str(dead.parent)))),
        slot=SlotChoice(),
        container=FakeContainer(),
        spawner=FakeSpawner(),
        groups=None,
        directory=tmp_path / "pilot",
        clock=SYSTEM,
    )
    allocated = Allocated(around, allocation)
    try:
        until(lambda: not dead.exists())
    finally:
        allocated.close()
        allocated.loops.close()
