"""Who gets a slot, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import Assignment
from ailurus.protocol.resources import Resources
from pilot.attempt import Attempt
from pilot.node.gpus import Gpu
from pilot.node.slots import Line, Slots
from pilot.ports import JobError
from pilot.process import guardian
from pilot.process.spawner import GuardedSpawner
from tests.rig.pack import Task, pack

needs = st.builds(
    Resources,
    cores=st.integers(1, 8),
    memory_mb=st.integers(0, 8),
    disk_mb=st.integers(0, 8),
    gpus=st.integers(0, 2),
)


def attempt(job_id: int, **fields: object) -> Attempt:
    spec = JobSpec(name="j", command="true", memory_mb=1, disk_mb=1, **fields)  # type: ignore[arg-type]
    return Attempt(
        Assignment(job_id=job_id, attempt_nr=1, report_key="k", spec=spec), lambda _: None
    )


def test_the_longest_starts_first_and_priority_goes_before() -> None:
    line: Line[str] = Line()
    for name, estimate, priority in (("short", 1, 0), ("long", 9, 0), ("urgent", 0, 5)):
        line.add(name, Resources(cores=1), estimate_s=estimate, priority=priority)
    taken, _ = line.take(Resources(cores=3))
    assert [name for name, _ in taken] == ["urgent", "long", "short"]


def test_a_narrow_job_fills_the_gap_before_a_wide_one() -> None:
    line: Line[str] = Line()
    line.add("wide", Resources(cores=8), estimate_s=9)
    line.add("narrow", Resources(cores=1))
    taken, free = line.take(Resources(cores=4))
    assert [name for name, _ in taken] == ["narrow"]
    assert free == Resources(cores=3)


@given(
    st.lists(needs, max_size=30),
    st.builds(Resources, **dict.fromkeys(Resources.__struct_fields__, st.integers(0, 16))),
)
def test_what_starts_fits_and_what_waits_does_not(asked: list[Resources], room: Resources) -> None:
    line: Line[int] = Line()
    for index, need in enumerate(asked):
        line.add(index, need)
    taken, free = line.take(room)
    whole = free
    for _, need in taken:
        whole = whole.plus(need)
    assert whole == room
    assert not any(need.within(free) for need in line.needs())
    assert len(taken) + sum(1 for _ in line.needs()) == len(asked)


def test_a_second_job_waits_for_the_first() -> None:
    slots = Slots(Resources(cores=1, memory_mb=1000, disk_mb=1000), pin=[5])
    order: list[str] = []

    def second() -> None:
        with slots.placed(attempt(2)) as [slot]:
            order.append(f"second on {slot.cpus}")

    with slots.placed(attempt(1)) as [slot]:
        assert slot.cpus == (5,)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append("first ends")
    thread.join(5)
    assert order == ["first ends", "second on (5,)"]
    assert slots.room() == slots.total


def test_a_job_stopped_while_it_waits_gives_its_place_up() -> None:
    slots = Slots(Resources(cores=1, memory_mb=1000, disk_mb=1000))
    waiting, raised = attempt(2), []

    def second() -> None:
        try:
            with slots.placed(waiting):
                pass
        except JobError as error:
            raised.append(error.code)

    with slots.placed(attempt(1)):
        thread = threading.Thread(target=second)
        thread.start()
        while not slots.waiting():
            pass
        assert slots.room().cores == 0
        waiting.stop(JobError(Code.KILLED_BY_SERVER, "stop"))
        thread.join(5)
        assert raised == [Code.KILLED_BY_SERVER]
        assert slots.waiting() == 0


def test_a_gpu_is_handed_out_once_and_again_when_its_payload_has_ended() -> None:
    devices = [Gpu(name=f"GPU-{nr}", number=nr, key=f"nvidia{nr}", files=()) for nr in range(2)]
    total = Resources(cores=4, memory_mb=10_000, disk_mb=10_000, gpus=2)
    slots = Slots(total, gpus=devices)
    with slots.placed(attempt(1, gpus=1)) as [one], slots.placed(attempt(2, gpus=1)) as [two]:
        assert {*one.gpus, *two.gpus} == set(devices)
    with slots.placed(attempt(3, gpus=2)) as [both]:
        assert set(both.gpus) == set(devices)
    with slots.placed(attempt(4)) as [none]:
        assert none.gpus == ()


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    link, pid = guardian.start()
    made = GuardedSpawner(link, pid)
    yield made
    made.close()


def test_a_pack_runs_all_and_answers_in_order(spawner: GuardedSpawner) -> None:
    tasks = [Task(["/bin/sh", "-c", f"exit {n % 7}"]) for n in range(60)]
    assert [ended.exit_code for ended in pack(tasks, Resources(cores=4), spawner)] == [
        n % 7 for n in range(60)
    ]


def test_a_pack_refuses_what_can_never_fit(spawner: GuardedSpawner) -> None:
    with pytest.raises(ValueError, match=r"tasks\[1\]"):
        pack(
            [Task(["/bin/true"]), Task(["/bin/true"], Resources(cores=9))],
            Resources(cores=4),
            spawner,
        )
