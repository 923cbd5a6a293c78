"""Who gets a slot, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import Assignment
from ailurus.protocol.resources import Resources, Room
from pilot.attempt import Attempt
from pilot.node.gpus import Gpu
from pilot.node.slots import Slots
from pilot.node.topology import Cpu
from pilot.ports import JobError
from pilot.process.spawner import GuardedSpawner
from tests.pilot.fakes import FakeClock
from tests.pilot.nursery import nursery
from tests.rig.pack import Task, pack
from tests.rig.waiting import until


def attempt(job_id: int, **fields: object) -> Attempt:
    spec = JobSpec(name="j", command="true", memory_mb=1, disk_mb=1, **fields)  # type: ignore[arg-type]
    return Attempt(
        Assignment(job_id=job_id, attempt_nr=1, report_key="k", spec=spec), lambda _: None
    )


def test_a_second_job_waits_for_the_first() -> None:
    slots = Slots(Resources(cores=1, memory_mb=1000, disk_mb=1000), pin=[Cpu(5, 5, 5, 0, 0)])
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


def test_a_job_that_is_killed_as_its_wait_ends_is_not_given_back() -> None:
    clock = FakeClock()
    slots = Slots(Resources(cores=1, memory_mb=1000, disk_mb=1000), clock=clock)
    job = attempt(2)
    job.waits_until = clock.now + 300

    def while_waiting() -> None:
        job.stop(JobError(Code.KILLED_BY_SERVER, "killed"))
        clock.forward(300)

    clock.while_waiting = while_waiting
    with slots.placed(attempt(1)), pytest.raises(JobError, match="killed"), slots.placed(job):
        pass
    assert not job.give_back


def test_a_slot_knows_what_its_cpus_share_on_its_node_and_not_on_this_machine() -> None:
    cpus = [Cpu(900 + number, 900 + number, cache=900, node=1, package=1) for number in range(2)]
    slots = Slots()
    slots.join("n2", Resources(cores=2, memory_mb=1000, disk_mb=1000), cpus)
    with slots.placed(attempt(1, cores=2)) as [slot]:
        assert slot.pinned == tuple(cpus)
        assert slot.cpus == (900, 901)


def test_what_the_nodes_there_are_have_in_common_changes_as_they_come_and_go() -> None:
    slots = Slots()
    assert slots.hardware() is None
    for node, arch in (("n1", "x86-64-v4"), ("n2", "x86-64-v3")):
        slots.join(node, Resources(cores=2, memory_mb=1000, disk_mb=1000))
        slots.describe(node, Hardware(arch=arch))
        assert slots.hardware() == Hardware(arch=arch)
    slots.leave("n2")
    assert slots.hardware() == Hardware(arch="x86-64-v4")


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


def nodes_of(cores: int, *names: str) -> Slots:
    """Slots on nodes with so many cores."""
    slots = Slots(clock=FakeClock())
    for name in names:
        slots.join(name, Resources(cores=cores, memory_mb=9000, disk_mb=9000))
    return slots


def test_a_job_of_several_nodes_holds_a_slot_on_each() -> None:
    slots = nodes_of(4, "n1", "n2", "n3")
    assert slots.total == Room(cores=4, memory_mb=9000, disk_mb=9000, nodes=3)
    with slots.placed(attempt(1, nodes=2, cores=3)) as placement:
        assert [(slot.node, slot.need.cores) for slot in placement] == [("n1", 3), ("n2", 3)]
        room = slots.room()
        assert [(one.nodes, one.cores) for one in room.groups] == [(1, 4), (2, 1)]
    assert slots.room() == slots.total


def test_an_elastic_job_begins_on_the_pilots_own_node_which_no_job_outlives() -> None:
    slots = nodes_of(4, "n1", "n2", "n3")
    with slots.placed(attempt(1, cores=1)):
        training = {"launcher": "torchrun", "launcher_options": {"elastic": True}}
        with slots.placed(attempt(2, nodes=2, cores=3, **training)) as placement:
            assert [slot.node for slot in placement] == ["n1", "n2"]
        with slots.placed(attempt(3, nodes=2, cores=3, launcher="mpi")) as placement:
            assert [slot.node for slot in placement] == ["n2", "n3"]


def test_a_job_that_is_coming_or_waits_keeps_its_nodes() -> None:
    slots = nodes_of(4, "n1", "n2")
    slots.expect(attempt(1, nodes=2, cores=3))
    assert [(one.nodes, one.cores) for one in slots.room().groups] == [(2, 1)]
    slots.expect(attempt(2, nodes=2, cores=4))
    assert slots.room() == Room(cores=0)


def test_those_that_hold_slots_on_a_node_that_leaves_are_told() -> None:
    slots = nodes_of(4, "n1", "n2")
    one, both = attempt(1, cores=1), attempt(2, nodes=2, cores=2)
    with slots.placed(both), slots.placed(one) as [slot]:
        other = "n2" if slot.node == "n1" else "n1"
        assert slots.leave(other) == [both]
        assert slots.leave(slot.node) == [both, one]
        assert slots.room() == Room(cores=0)
    slots.join("n3", Resources(cores=4, memory_mb=9000, disk_mb=9000))
    with slots.placed(attempt(3)) as [slot]:
        assert slot.node == "n3"


ALL = Resources(cores=4, memory_mb=9000, disk_mb=9000)


def test_a_job_that_grows_gets_its_nodes_back_before_others_start_there() -> None:
    slots = nodes_of(4, "n1", "n2")
    job, gained = attempt(1, nodes=2, cores=4), []
    with slots.placed(job), slots.growing(job, 3, gained.append):
        assert slots.leave("n2") == [job]
        other = slots.placed(attempt(2, cores=4))
        waits = threading.Thread(target=other.__enter__)
        waits.start()
        until(slots.waiting)
        slots.join("n2", ALL)
        assert [slot.node for slot in gained] == ["n2"]
        # More than it began with only while nobody waits.
        slots.join("n3", ALL)
        waits.join(10)
        assert [slot.node for slot in gained] == ["n2"]
        slots.join("n4", ALL)
        slots.join("n5", ALL)
        assert [slot.node for slot in gained] == ["n2", "n4"]
        # It has as many as it began with.
        assert slots.leave("n4") == [job]
        slots.join("n4", ALL)
        assert [slot.node for slot in gained] == ["n2", "n4", "n5"]
        assert job.held is not None
        assert [(slot.node, slot.began > 0, slot.ended > 0) for slot in job.held.slots] == [
            ("n1", False, False),
            ("n2", False, True),
            ("n2", True, False),
            ("n4", True, True),
            ("n5", True, False),
        ]
        other.__exit__(None, None, None)
    assert slots.room() == slots.total


def test_a_job_that_grows_has_one_slot_on_a_node() -> None:
    slots = nodes_of(4, "n1", "n2")
    job, gained = attempt(1, nodes=2, cores=1), []
    with slots.placed(job), slots.growing(job, 4, gained.append):
        assert gained == []
        slots.join("n3", ALL)
        assert [(slot.node, slot.need.cores) for slot in gained] == [("n3", 1)]
    assert slots.room() == slots.total


def test_a_job_for_which_there_are_not_the_nodes_any_more_is_given_back() -> None:
    slots = nodes_of(4, "n1", "n2")
    waiting = attempt(2, nodes=2)
    raised: list[JobError] = []

    def wait() -> None:
        try:
            with slots.placed(waiting):
                pass
        except JobError as error:
            raised.append(error)

    with slots.placed(attempt(1, nodes=2, cores=4)):
        thread = threading.Thread(target=wait)
        thread.start()
        until(slots.waiting)
        slots.leave("n2")
        thread.join(5)
    assert "2 nodes, and the pilot has 1 such nodes" in raised[0].message
    assert (raised[0].transient, waiting.give_back) == (True, True)
    assert slots.waiting() == 0


def test_a_job_that_cannot_end_in_time_is_given_back() -> None:
    slots = nodes_of(4, "n1")
    slots.end_by(1000.0 + 60)
    long = attempt(1, walltime_s=61)
    with pytest.raises(JobError, match="61 s of walltime, 60 s are left"), slots.placed(long):
        pass
    assert long.give_back
    with slots.placed(attempt(2, walltime_s=60)):
        pass


def test_a_job_of_all_memory_starts_though_its_shape_is_rounded_up() -> None:
    slots = Slots(Resources(cores=1, memory_mb=8111, disk_mb=8111))
    job = attempt(1)
    job.spec = replace(job.spec, memory_mb=8111, disk_mb=8111)
    with slots.placed(job) as [slot]:
        assert slot.need.memory_mb == 8111


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    made = nursery().start()
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
