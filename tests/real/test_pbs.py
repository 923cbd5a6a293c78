"""The edge on PBS. No Debian mirror has a PBS server, so this is a stand-in (tests/standins/pbs),
unless AILURUS_TEST_PBS names a real one: a command that runs qsub, qstat, qselect and qdel there
("ssh login", or `env` where they are at hand). A worker's directory must then be on a file system
that both see: TMPDIR."""

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
def pbs() -> Iterator[batch_systems.PBS]:
    with batch_systems.pbs() as system:
        yield system


@pytest.fixture
def system(pbs) -> Iterator[batch_systems.PBS]:
    yield pbs
    pbs.empty()


class TestPBS(Promises):
    """Those of every batch system."""

    never = (
        ("wrong", {"extra": {"queue": "nosuch"}}, "there is no queue nosuch"),
        ("long", {"extra": {"queue": "short"}}, "walltime at most 00:10:00"),
        ("large", {"cores": 9999}, "hosts that serve queue"),
        ("many", {"nodes": 8}, "hosts that serve queue"),
    )

    def _silence(self, system, begin, end):
        if batch_systems.PBS_SERVER:
            pytest.skip("AILURUS_TEST_PBS is a real server, which is not ours to stop")
        super()._silence(system, begin, end)

    @pytest.mark.parametrize("chunk", ["", "mpiprocs=2"])
    def test_e7_an_allocation_of_four_nodes_has_four_pilots(self, system, chunk):
        """Also where PBS would start two processes on each."""
        if len(system.nodes()) < 4:
            pytest.skip("AILURUS_TEST_PBS is a server of fewer than four nodes")
        keep = {"max_total": 8, "floor": 8, "idle_exit": "2s"}
        slot = {"nodes": 4, "extra": {"chunk": chunk}}
        with Rig(system, slots={"std": slot}, scaling=keep) as rig:
            rig.edge()
            until(lambda: len(rig.registered()) == 8, 60, "eight have registered")
            assert rig.submissions == 1
            assert len({row["batch_id"] for row in rig.workers("phase != 'ended'")}) == 2
            if os.getuid() == 0 or batch_systems.PBS_SERVER:  # else all have this machine's name
                assert len({row.host for row in rig.registered()}) == 4
            rig.configure(slots={"std": slot}, scaling={**keep, "floor": 0})
            rig.end()
            rig.edge()
            assert rig.finished(rig.submit(20), 60)
            until(lambda: not rig.workers("phase != 'ended'"), 60, "all end when idle")
            assert not system.live()
            assert {row["ending"] for row in rig.workers()} <= {"idle_exit", "done"}

    def test_a_node_that_starts_no_pilot_is_told_of_by_its_allocation(self, system):
        """pbsdsh ends well whatever its tasks do."""
        with Rig(system, slots={"std": {"nodes": 4}}, scaling={"max_total": 4, "floor": 4}) as rig:
            program = rig.program("fails", '[ "$AILURUS_INDEX" != 2 ] || exit 3')
            site = {"slots": {"std": {"nodes": 4}}, "pilot": {"program": program}}
            rig.configure(**site, scaling={"max_total": 4, "floor": 4})
            rig.edge()
            until(lambda: len(rig.workers("phase = 'ended'")) >= 4, 40, "they have ended")
            assert {row["ending"] for row in rig.workers("phase = 'ended'")} == {"never_registered"}

    def test_a_lost_node_ends_its_worker(self, system):
        """The server says that its mom is gone."""
        self._ours(system)
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            (first,) = rig.known()
            system.lose("pbshost")
            try:
                until(lambda: rig.workers("phase = 'ended'"), 30, "the loss is seen")
                (row,) = rig.workers("phase = 'ended'")
                assert f"{row['intent']}.{row['index']}" == first
                assert row["ending"] == "node_fail", row
                until(lambda: rig.agrees(1), 40, "another one replaces it, elsewhere")
            finally:
                system.find("pbshost")

    @pytest.mark.parametrize("how", ["requeued by an admin", "begun again after its mom was lost"])
    def test_a_worker_that_begins_again_takes_no_second_turn(self, system, how):
        """Workers of an array must be rerunable. The pilot's token is used up; its job is
        another's."""
        self._ours(system)
        keep = {"max_total": 2, "floor": 2, "idle_exit": "5m"}
        with Rig(system, scaling=keep) as rig:
            rig.edge()
            until(lambda: len(rig.registered()) == 2, 40, "two pilots have registered")
            jobs = rig.submit(1, "sleep 6")
            until(lambda: rig.client.overview().states.get("running"), 30, "it runs")
            (busy,) = (row for row in rig.registered() if row.jobs)
            (row,) = rig.workers(f"intent = '{busy.intent}' and \"index\" = {busy.index}")
            node = system.nodes()[busy.index]
            if how == "requeued by an admin":
                system.run("qrerun", row["batch_id"])
            else:
                system.lose(node)
            try:
                assert rig.finished(jobs, 90)
                until(lambda: rig.agrees(2), 40, "two workers")
                until(lambda: len(rig.registered()) == 3, 40, "a third pilot replaces it")
            finally:
                if how != "requeued by an admin":
                    system.find(node)

    def _ours(self, system):
        if batch_systems.PBS_SERVER:
            pytest.skip("AILURUS_TEST_PBS is a real server, of which we are no operator")

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"queue": "nosuch"}, "Unknown queue"),
            ({"queue": "closed"}, "not enabled"),
            ({"chunk": "nosuch=1"}, "Unknown resource"),
        ],
    )
    def test_a_refusal_is_one_and_says_why(self, system, wrong, reason):
        with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
            rig.edge()
            assert refused(rig, reason), rig.workers()

    def test_a_held_worker_is_held_until_it_is_released(self, system):
        with sleepers(system, 1, backend={"options": {"submit": ["-h"]}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'held'"), 20, "it is held")
            (row,) = rig.workers()
            system.run("qrls", row["batch_id"])
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            assert len(rig.workers()) == 1

    def test_a_worker_that_can_never_run_is_held_and_says_why(self, system):
        with sleepers(system, 1, slots={"std": {"cores": 9999, "memory": "1G"}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'held'"), 40, "it is held")
            (row,) = rig.workers()
            assert row["diagnosis"].startswith("Can Never Run"), row
