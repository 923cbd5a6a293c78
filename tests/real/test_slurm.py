"""The edge on a real Slurm: one controller and several slurmd, on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.real.batch_promises import Promises, refused
from tests.rig import batch_systems
from tests.rig.batch import Rig
from tests.rig.batch_kills import sleepers
from tests.rig.waiting import until

pytestmark = [pytest.mark.batch, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def slurm(need) -> Iterator[batch_systems.Slurm]:
    os.environ["PATH"] += ":/usr/sbin"
    need("slurmctld", package="slurm-wlm", option="--slurm")
    need("munged", package="munge", option="--slurm")
    with batch_systems.slurm() as system:
        yield system


@pytest.fixture
def system(slurm) -> Iterator[batch_systems.Slurm]:
    yield slurm
    slurm.empty()


class TestSlurm(Promises):
    """Those of every batch system."""

    never = (
        ("wrong", {"extra": {"partition": "nosuch"}}, "nvalid partition"),
        ("large", {"nodes": 5}, "Node count specification invalid"),
    )

    def test_e7_an_allocation_of_four_nodes_has_four_pilots(self, system):
        keep = {"max_total": 4, "floor": 4, "idle_exit": "2s"}
        with Rig(system, slots={"std": {"nodes": 4}}, scaling=keep) as rig:
            rig.edge()
            until(lambda: len(rig.registered()) == 4, 60, f"four have registered: {rig.log()}")
            assert rig.submissions == 1
            assert len({row["batch_id"] for row in rig.workers("phase != 'ended'")}) == 1
            if os.getuid() == 0:  # else all nodes have this machine's name
                assert {row.host for row in rig.registered()} == {"n1", "n2", "n3", "n4"}
            rig.configure(slots={"std": {"nodes": 4}}, scaling={"max_total": 4, "idle_exit": "2s"})
            rig.end()
            rig.edge()
            assert rig.finished(rig.submit(20), 60)
            until(lambda: not rig.workers("phase != 'ended'"), 60, "all end when idle")
            assert not system.live()

    def test_a_lost_node_of_an_allocation_leaves_the_pilots_of_the_others(self, system):
        """They finish what they have; only the lost one's job begins anew, elsewhere."""
        keep = {"max_total": 4, "floor": 4, "idle_exit": "1m"}
        with Rig(system, slots={"std": {"nodes": 4}}, scaling=keep) as rig:
            rig.edge()
            until(lambda: len(rig.registered()) == 4, 60, f"four have registered: {rig.log()}")
            go = rig.directory / "go"
            jobs = rig.submit(4, f"until test -e {go}; do sleep 0.2; done")
            running = lambda: rig.client.overview().states.get("running") == 4  # noqa: E731
            until(running, 30, "all four run a job")
            system.fixture("node", "n3", "kill")
            try:
                until(
                    lambda: "down" in system.run("sinfo", "-hNn", "n3", "-o", "%T"),
                    60,
                    "Slurm sees it",
                )
                go.touch()
                assert rig.finished(jobs, 120), rig.log()
            finally:
                system.fixture("node", "n3", "start")
            attempts = [len(rig.client.show(one).attempts) for one in jobs]
            assert sorted(attempts) == [1, 1, 1, 2]

    def test_a_lost_node_ends_its_workers_and_no_others(self, system):
        with sleepers(system, 2, backend={"options": {"exclusive": True}}) as rig:
            rig.edge()
            until(lambda: len(rig.workers("phase = 'starting'")) == 2, 30, "both run, each alone")
            before = rig.known()
            node = system.run("squeue", "--noheader", "--format=%N|%j.%K", "--array").split()[0]
            name, _, lost = node.partition("|")
            system.fixture("node", name, "kill")
            try:
                until(lambda: rig.workers("phase = 'ended'"), 90, "the loss is seen")
            finally:
                system.fixture("node", name, "start")
            (row,) = rig.workers("phase = 'ended'")
            assert f"{row['intent']}.{row['index']}" == lost
            assert row["ending"] == "node_fail", row
            until(lambda: rig.agrees(2), 40, "another one replaces it")
            assert set(before) - {lost} < set(rig.known())

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"partition": "nosuch"}, "Invalid partition"),
            ({"constraint": "nosuch"}, "Invalid feature"),
            ({"reservation": "nosuch"}, "reservation"),
            ({"submit": ["--nosuch"]}, "unrecognized option"),
            ({"submit": ["--mem=900G"]}, "node configuration is not available"),
            ({"partition": "short"}, "time limit is invalid"),  # the slot asks for an hour
        ],
    )
    def test_a_refusal_is_one_and_says_why(self, system, wrong, reason):
        with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
            rig.edge()
            assert refused(rig, reason), rig.workers()

    def test_a_held_worker_is_held_until_it_is_released(self, system):
        with sleepers(system, 1, backend={"options": {"submit": ["--hold"]}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'held'"), 20, "it is held")
            (row,) = rig.workers()
            assert row["diagnosis"] == "JobHeldUser"
            system.run("scontrol", "release", row["batch_id"])
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            assert len(rig.workers()) == 1

    def test_a_worker_is_not_requeued_unless_the_site_says_so(self, system):
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'starting'"), 20, "it runs")
            (row,) = rig.workers()
            with pytest.raises(RuntimeError, match="disabled"):
                system.run("scontrol", "requeue", row["batch_id"])

    def test_a_worker_that_an_admin_requeues_takes_no_second_turn(self, system):
        """Its pilot begins again with a token that is used up, and leaves; its job is another's."""
        keep = {"max_total": 1, "floor": 1, "idle_exit": "5m"}
        with Rig(system, backend={"options": {"submit": ["--requeue"]}}, scaling=keep) as rig:
            jobs = rig.submit(1, "sleep 8")
            rig.edge()
            until(lambda: rig.client.overview().states.get("running"), 30, f"it runs: {rig.log()}")
            (row,) = rig.workers()
            system.run("scontrol", "requeue", row["batch_id"])
            assert rig.finished(jobs, 90), rig.log()
            until(lambda: rig.agrees(1), 40, "one worker, another one")
            assert row["intent"] not in {one["intent"] for one in rig.workers("phase != 'ended'")}
            assert len(rig.registered()) == 2

    @pytest.mark.field("K5")
    def test_what_the_sites_own_plugin_refuses_stops_with_its_words(self, system):
        """job_submit.lua says why to the user, and to Slurm only that something is wrong."""
        options = {"options": {"submit": ["--comment=refuse me"]}}
        with Rig(system, backend=options) as rig:
            rig.submit(1)
            rig.edge()
            until(lambda: "never registered" in rig.log(), 30, f"the breaker opens: {rig.log()}")
            assert "Use --account=atlas here, please" in rig.log()
            assert rig.submissions == 3
            assert {row["outcome"] for row in rig.workers()} == {"rejected"}

    def test_a_hung_munge_changes_no_verdict(self, system):
        def munge(number):
            system.fixture("signal", "munged", number)

        self._silence(system, lambda: munge("STOP"), lambda: munge("CONT"))

    def test_workers_of_an_edge_that_never_comes_back_end_by_themselves(self, system):
        """One told early that its time ends, one killed then, one that waited for its node too
        long. A minute is Slurm's shortest walltime."""
        slot = {"walltime": "1m", "extra": {"submit": ["--nodelist=n2"]}}
        alone = {"submit": ["--exclusive", "--nodelist=n1"]}
        more = {"cores": 1, "memory": "500M", "disk": "1G", **slot}
        slots = {
            "std": slot,
            "deaf": {**more, "queue": "deaf", "extra": alone},
            "stuck": {**more, "queue": "stuck", "extra": alone},
        }
        with Rig(system) as rig:
            deaf = 'case $* in *"--slot std"*) trap "echo told; exit 0" USR1 ;; *) trap "" USR1 ;; esac'
            program = rig.program("times", f"{deaf}\nsleep 300 & wait")
            site = {
                "slots": slots,
                "policy": {"max_queue_age": "5s", "start_grace": "30s"},
                "pilot": {"program": program},
            }
            rig.configure(**site)
            for queue in ("real", "deaf", "stuck"):
                rig.submit(1, queue=queue)
            edge = rig.edge()
            until(lambda: len(rig.known()) == 3, 30, f"three workers: {rig.log()}")
            rig.kill(edge)
            until(lambda: not system.live(), 170, f"all have gone: {system.live()}")
            rig.configure(**site, scaling={"max_total": 0})
            rig.edge()
            until(lambda: len(rig.workers("phase = 'ended'")) == 3, 30, "their ends are seen")
            endings = {row["slot"]: row["ending"] for row in rig.workers()}
            told = [place.read_text() for place in rig.directory.glob("state/workers/*/0/stdout")]
            assert sorted(told) == ["", "told\n"]
            assert endings["deaf"] == endings["stuck"] == "walltime"
