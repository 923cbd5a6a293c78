"""Jobs that share GPUs: nobody gets more of a device than there is, and what a dispatcher gives by
the room that a pilot told starts there."""

from __future__ import annotations

import random
from collections import Counter

import hypothesis.strategies as st
from hypothesis import given, settings

from ailurus.protocol.resources import WHOLE, Resources, Room, Shape, least_share
from pilot.node import gpus
from pilot.node.gpus import Gpu
from pilot.node.lines import Wish
from pilot.node.packing import Packer
from pilot.node.shares import Slot

shares = st.integers(10, 90)
nodes_of_gpus = st.lists(st.integers(0, 3), min_size=1, max_size=3)
wanted = st.lists(
    st.builds(
        Resources, cores=st.just(1), gpus=st.just(1), gpu_share=shares
    )
    | st.builds(Resources, cores=st.just(1), gpus=st.integers(0, 2)),
    min_size=1,
    max_size=40,
)  # fmt: skip


def device(name: str, mps: str = "") -> Gpu:
    return Gpu(name=name, number=0, key=name, files=(f"/dev/{name}",), mps=mps)


def packer(counts: list[int], jobs: int) -> Packer[int]:
    """Nodes with so many GPUs each, of which so many jobs may share one."""
    made: Packer[int] = Packer()
    for nr, count in enumerate(counts):
        total = Resources(cores=50, gpus=count, gpu_share=least_share(jobs) if count else 0)
        made.join(f"n{nr}", total, gpus=[device(f"n{nr}g{at}") for at in range(count)])
    return made


def check(held: dict[int, Slot], jobs: int) -> dict[str, int]:
    """Nobody has what another one has; returns how much of each device is taken."""
    taken: Counter[str] = Counter()
    sharers: Counter[str] = Counter()
    for slot in held.values():
        need = slot.need
        assert len(slot.gpus) == need.gpus
        for gpu in slot.gpus:
            assert gpu.name.startswith(slot.node)
            taken[gpu.name] += max(need.gpu_share, least_share(jobs)) if need.gpu_share else WHOLE
            sharers[gpu.name] += 1
    assert all(amount <= WHOLE for amount in taken.values())
    assert all(count <= max(1, jobs) for count in sharers.values())
    return taken


@given(nodes_of_gpus, st.integers(1, 10), wanted, st.integers(0, 10**6))
def test_never_is_more_than_a_whole_device_given_out(counts, jobs, asked, seed):
    line, chance = packer(counts, jobs), random.Random(seed)
    held: dict[int, Slot] = {}
    for nr, need in enumerate(asked):
        line.add(nr, Wish(need))
        held |= {item: placement[0] for item, placement in line.take()}
        taken = check(held, jobs)
        if held and chance.random() < 0.5:
            gone = chance.choice(list(held))
            line.give_back(gone)
            del held[gone]
            held |= {item: placement[0] for item, placement in line.take()}
            taken = check(held, jobs)
        for name, total, free in line.nodes():
            mine = [taken[f"{name}g{at}"] for at in range(total.gpus)]
            assert free.gpus == mine.count(0)
            assert free.gpu_parts == tuple(
                sorted((WHOLE - one for one in mine if 0 < one < WHOLE), reverse=True)
            )
    for item in list(held):
        line.give_back(item)
    for _, _, free in line.nodes():
        assert free.gpu_parts == ()


@given(nodes_of_gpus, st.integers(2, 10), wanted, wanted)
@settings(deadline=None)
def test_what_fits_a_room_starts_at_once_in_the_order_in_which_it_was_given(
    counts, jobs, before, asked
):
    line = packer(counts, jobs)
    for nr, need in enumerate(before):
        line.add(nr, Wish(need))
    line.take()
    for nr in range(len(before)):
        line.remove(nr)
    room = Room.over(dict(line.free()), seconds_left=None)
    for nr, need in enumerate(asked, len(before)):
        shape = Shape(cores=1, memory_mb=0, gpus=need.gpus, gpu_share=need.gpu_share)
        line.add(nr, Wish(need))
        starts = [item for item, _ in line.take()]
        assert bool(starts) == shape.fits(room)
        if starts:
            room = room.taking(shape)
            told = Room.over(dict(line.free()), seconds_left=None)
            assert Counter(room.groups) == Counter(told.groups)
        line.remove(nr)


def test_shares_fill_a_device_that_is_shared_before_they_break_a_whole_one():
    line = packer([1, 2], jobs=4)
    half = Wish(Resources(cores=1, gpus=1, gpu_share=50))
    for nr in range(3):
        line.add(nr, half)
    (first, second, third) = (placement[0].gpus[0].name for _, placement in line.take())
    assert first == second == "n0g0"
    assert third == "n1g0"
    line.add(3, Wish(Resources(cores=1, gpus=1)))
    ((_, placement),) = line.take()
    assert placement[0].gpus[0].name == "n1g1"


def test_a_part_of_a_device_is_shared_and_never_becomes_a_whole_one():
    line: Packer[int] = Packer()
    total = Resources(cores=50, gpu_share=25, gpu_parts=(50,))
    line.join("n0", total, gpus=[device("n0g0")])
    quarter = Resources(cores=1, gpus=1, gpu_share=25)
    assert line.could_hold(quarter)
    assert not line.could_hold(Resources(cores=1, gpus=1))
    assert not line.could_hold(Resources(cores=1, gpus=1, gpu_share=60))
    for nr in range(3):
        line.add(nr, Wish(quarter))
    started = line.take()
    assert [item for item, _ in started] == [0, 1]
    assert {placement[0].gpus[0].name for _, placement in started} == {"n0g0"}
    for nr in (0, 1):
        line.give_back(nr)
    assert [item for item, _ in line.take()] == [2]
    line.give_back(2)
    assert [free for _, _, free in line.nodes()] == [total]


def test_where_no_device_is_shared_a_share_waits_for_ever():
    line = packer([2], jobs=1)
    line.add(0, Wish(Resources(cores=1, gpus=1, gpu_share=50)))
    assert line.take() == []
    assert line.impossible() == [0]


def test_a_node_is_closed_for_a_whole_gpu_until_those_who_share_it_have_ended():
    line = packer([1], jobs=2)
    half = Resources(cores=1, gpus=1, gpu_share=50)
    for nr in range(2):
        line.add(nr, Wish(half, estimate_s=10 + nr))
    assert len(line.take(0.0)) == 2
    line.add(9, Wish(Resources(cores=50, gpus=1), priority=1))
    for nr in range(10, 60):
        line.add(nr, Wish(Resources(cores=1), estimate_s=100))
    line.take(0.0)
    for nr in (0, 1):
        line.give_back(nr)
    assert line.holds(9) is None
    for nr in range(10, 60):
        if line.holds(nr):
            line.give_back(nr)
    line.take(1.0)
    assert line.holds(9) is not None


def test_only_a_payload_with_a_share_reaches_mps():
    shared = [device("GPU-1", mps="/run/mps")]
    assert gpus.files(shared) == ("/dev/GPU-1",)
    assert gpus.files(shared, 50) == ("/dev/GPU-1", "/run/mps")
    assert "CUDA_MPS_PIPE_DIRECTORY" not in gpus.visible(shared)
    found = gpus.visible(shared, 25)
    assert found["CUDA_MPS_PIPE_DIRECTORY"] == "/run/mps"
    assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert not any(name.startswith("CUDA_MPS") for name in gpus.visible([device("G")], 25))
