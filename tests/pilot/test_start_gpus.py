"""Which GPUs a pilot has when it starts, and which it shares."""

from __future__ import annotations

from functools import partial

import pytest

from ailurus.protocol.resources import Resources
from pilot import start
from pilot.node.claims import claim
from pilot.node.gpus import Gpu
from pilot.node.machine import Inventory
from pilot.site import GpusChoice, PilotChoice, Site, SlotChoice
from pilot.start import started
from tests.pilot.fakes import FakeLink
from tests.pilot.test_start import BARE, FakeGuarded, options_of


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeLink()
    made.register = lambda patience: made.registered  # type: ignore[attr-defined]
    monkeypatch.setattr(start, "_link", lambda *_: made)


def test_two_pilots_of_a_node_have_no_gpu_in_common(tmp_path, monkeypatch, caplog):
    gpus = tuple(Gpu(name=f"GPU-{n}", number=n, key=f"nvidia{n}", files=()) for n in range(3))
    seen = Inventory(resources=Resources(cores=1, memory_mb=1), cpus=(0,), gpus=gpus)
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(start.machine, "look", lambda directory, *, mps: seen)
    monkeypatch.setattr(start, "claim", partial(claim, bases=[tmp_path / "locks"]))
    site = Site(container=BARE, slots={"s": SlotChoice(queue="q", gpus=2)})
    options = options_of(tmp_path)
    with started(options, site, FakeGuarded()) as one, started(options, site, FakeGuarded()) as two:
        assert one._kit.slots.total.gpus == 2
        assert two._kit.slots.total.gpus == 1
    assert "gpus_missing" in caplog.text
    with started(options, site, FakeGuarded()) as again:
        assert again._kit.slots.total.gpus == 2


@pytest.mark.parametrize(
    ("sharing", "there", "share"),
    [
        (GpusChoice(), False, 0),
        (GpusChoice(share=4), False, 25),
        (GpusChoice(share=4, mps="/mps"), True, 25),
        # Where the site's MPS is not, nobody would keep jobs to their shares.
        (GpusChoice(share=4, mps="/mps"), False, 0),
    ],
)
def test_a_pilot_tells_that_its_gpus_are_shared_if_its_site_says_so(
    tmp_path, monkeypatch, sharing, there, share
):
    gpu = Gpu(name="GPU-1", number=1, key="nvidia1", files=(), mps="/mps" if there else "")
    seen = Inventory(resources=Resources(cores=1, memory_mb=1), cpus=(0,), gpus=(gpu,))
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(start.machine, "look", lambda directory, mps: seen)
    monkeypatch.setattr(start, "claim", partial(claim, bases=[tmp_path / "locks"]))
    site = Site(container=BARE, pilot=PilotChoice(gpus=sharing))
    with started(options_of(tmp_path), site, FakeGuarded()) as server:
        assert server._kit.slots.total.gpu_share == share
        assert server._kit.slots.room().gpu_share == share


def test_two_pilots_whose_slots_have_a_part_of_a_gpu_share_one(tmp_path, monkeypatch):
    gpu = Gpu(name="GPU-1", number=1, key="nvidia1", files=())
    seen = Inventory(resources=Resources(cores=1, memory_mb=1), cpus=(0,), gpus=(gpu,))
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(start.machine, "look", lambda directory, mps: seen)
    monkeypatch.setattr(start, "claim", partial(claim, bases=[tmp_path / "locks"]))
    slots = {"s": SlotChoice(queue="q", gpus=0.5)}
    site = Site(container=BARE, slots=slots, pilot=PilotChoice(gpus=GpusChoice(share=4)))
    options = options_of(tmp_path)
    with started(options, site, FakeGuarded()) as one, started(options, site, FakeGuarded()) as two:
        for total in (one._kit.slots.total, two._kit.slots.total):
            assert (total.gpus, total.gpu_share, total.gpu_parts) == (0, 25, (50,))
        with started(options, site, FakeGuarded()) as three:
            assert three._kit.slots.total.gpu_parts == ()
