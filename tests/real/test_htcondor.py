"""The edge on a real HTCondor: a pool of this machine, which belongs to an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.batch_promises import Promises, refused
from tests.rig import batch_systems
from tests.rig.batch import Rig
from tests.rig.batch_kills import sleepers
from tests.rig.waiting import until

pytestmark = [pytest.mark.batch, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def htcondor(need) -> Iterator[batch_systems.HTCondor]:
    program = str(batch_systems.CONDOR / "usr/sbin/condor_master")
    need(program, package="mmdebstrap", option="--htcondor")
    with batch_systems.htcondor() as system:
        yield system


@pytest.fixture
def system(htcondor) -> Iterator[batch_systems.HTCondor]:
    yield htcondor
    htcondor.empty()


class TestHTCondor(Promises):
    """Those of every batch system."""

    never = (
        ("wrong", {"extra": {"requirements": "(("}}, "Parse error"),
        (
            "nowhere",
            {"extra": {"requirements": 'TARGET.Machine == "nowhere"'}},
            "no machine with room",
        ),
        ("large", {"cores": 99}, "the largest of 1 has 96 cores"),
    )

    def test_a_held_worker_is_held_until_it_is_released(self, system):
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            (row,) = rig.workers()
            system.condor("hold", "-reason", "operator asked", row["batch_id"])
            until(lambda: rig.workers("phase = 'held'"), 30, "it is held")
            assert "operator asked" in rig.workers()[0]["diagnosis"]
            assert len(rig.workers()) == 1
            system.condor("release", row["batch_id"])
            until(
                lambda: rig.workers("phase = 'ended'"), 40, "it has begun before, so it is removed"
            )
            assert rig.workers("phase = 'ended'")[0]["ending"] == "preempted"
            until(lambda: rig.agrees(1), 40, "another one replaces it")

    def test_workers_of_a_lost_machine_have_ended_and_do_not_run_again(self, system):
        """HTCondor believes in a machine for the lease of the job, 40 minutes if nobody says
        else."""
        lease = {"options": {"submit": ["job_lease_duration = 20"]}}
        with sleepers(system, 2, backend=lease) as rig:
            rig.edge()
            until(lambda: len(rig.workers("phase = 'starting'")) == 2, 40, "both run")
            before = set(rig.known())
            system.lose()
            until(lambda: len(rig.workers("phase = 'ended'")) == 2, 90, "the loss is seen")
            assert {row["ending"] for row in rig.workers("phase = 'ended'")} == {"preempted"}
            until(lambda: rig.agrees(2), 60, "others replace them")
            assert not before & set(rig.known())

    def test_an_evicted_worker_is_preempted_and_does_not_run_again(self, system):
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            (row,) = rig.workers()
            system.condor("vacate_job", "-fast", row["batch_id"])
            until(lambda: rig.workers("phase = 'ended'"), 40, f"it has ended: {rig.log()}")
            (old,) = rig.workers("phase = 'ended'")
            assert (old["batch_id"], old["ending"]) == (row["batch_id"], "preempted"), old
            until(lambda: rig.agrees(1), 40, "another one replaces it")

    def test_workers_of_an_edge_that_never_comes_back_end_by_themselves(self, system):
        """One at its walltime, one that has waited too long."""
        slot = {"cores": 1, "memory": "500M", "disk": "1G", "walltime": "10s"}
        stuck = {**slot, "queue": "stuck", "extra": {"requirements": 'Machine == "nowhere"'}}
        site = {
            "slots": {"std": slot, "stuck": stuck},
            "policy": {"max_queue_age": "8s", "start_grace": "5s"},
        }
        with Rig(system) as rig:
            rig.configure(**site, pilot={"program": str(rig.directory / "idle")})
            rig.submit(1)
            rig.submit(1, queue="stuck")
            edge = rig.edge()
            until(lambda: len(rig.known()) == 2, 30, f"two workers: {rig.log()}")
            rig.kill(edge)
            until(lambda: not system.live(), 60, f"both have gone: {system.live()}")
            rig.configure(**site, scaling={"max_total": 0})
            rig.edge()
            until(lambda: len(rig.workers("phase = 'ended'")) == 2, 30, "their ends are seen")
            endings = {row["slot"]: row["ending"] for row in rig.workers()}
            assert endings == {"std": "walltime", "stuck": "cancelled"}

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"requirements": "(("}, "Parse error"),
            ({"accounting_group": "nosuch"}, "no such group"),
        ],
    )
    def test_a_refusal_is_one_and_says_why(self, system, wrong, reason):
        with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
            rig.edge()
            assert refused(rig, reason), rig.workers()
