"""What the edge promises on any batch system: a test file a system inherits these, and gives
`system`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess

import pytest

from tests.rig.batch import BIN, LEASE_S, Rig, as_user, clean
from tests.rig.batch_kills import FAILPOINTS, KILLS, LIES, kill, sleepers
from tests.rig.waiting import until


class Promises:
    never: tuple[tuple[str, dict[str, object], str], ...] = ()
    """Slots that this system would never start, and what the doctor says of them."""

    @pytest.mark.timeout(240)
    def test_200_jobs_run_through_the_frozen_pilot_and_nothing_is_left_when_idle(
        self, system, frozen
    ):
        with Rig(system) as rig:
            file = shutil.copy(frozen, rig.directory / "frozen-pilot")
            rig.configure(scaling={"max_total": 8}, pilot={"file": str(file)})
            rig.edge()
            assert rig.finished(rig.submit(200), 150), rig.log()
            until(lambda: not system.live(), 30, "all workers have gone")
            until(lambda: not rig.known(), 30, "the edge knows it")
            endings = {row["ending"] for row in rig.workers()}
            assert endings <= {"idle_exit", "done"}, rig.workers()

    def test_e7_fifty_workers_cost_at_most_five_submit_commands(self, system):
        with sleepers(system, 50) as rig:
            rig.edge()
            until(lambda: rig.agrees(50), 60, "50 workers are there, each known once")
            assert rig.submissions <= 5

    def test_b3_an_edge_killed_around_submit_leaks_and_duplicates_nothing(self, system):
        count = kill(system, (*FAILPOINTS, *KILLS))
        assert (count.leaked, count.twice, count.faults) == (0, 0, [])
        assert count.slowest <= 2

    def test_b2_a_submission_that_was_accepted_is_never_repeated(self, system):
        """Whatever its command says: nothing in time, exit code 1, a banner, two ids, half a
        line."""
        count = kill(system, LIES)
        assert (count.leaked, count.twice, count.faults) == (0, 0, [])
        assert count.slowest <= 2

    def test_b2_a_script_that_somebody_submits_again_takes_no_job(self, system):
        with Rig(system, scaling={"max_total": 1, "floor": 1, "idle_exit": "5m"}) as rig:
            rig.lie("twice")
            rig.edge()
            until(lambda: len(rig.registered()) == 1, 40, "one pilot registers")
            assert rig.finished(rig.submit(3), 40)
            until(lambda: len(rig.known()) == 1, 20, "one worker is known")
            assert len(rig.registered()) == 1

    @pytest.mark.parametrize("place", ["stop-before", "stop-after"])
    def test_r2_a_leader_that_slept_while_it_submitted_submits_nothing_twice(self, system, place):
        """Two login nodes. One stops in mid-submit, the other takes the site, the first wakes."""
        keep = {"max_total": 2, "floor": 2, "idle_exit": "5m"}
        with Rig(system, scaling=keep) as rig:
            rig.lie(place)
            first = rig.edge("--standby")
            until((rig.directory / "mode.used").exists, 20, "it submits")
            rig.configure(state="state2", scaling=keep)
            rig.edge("--standby")
            known = lambda: rig.known("state2")  # noqa: E731
            until(lambda: len(known()) == 2, LEASE_S + 30, "the second edge has its workers")
            until(lambda: len(rig.registered()) == 2, 40, "their pilots have registered")
            (rig.directory / "go").touch()  # now the first one's command runs
            if place == "stop-before":
                until(
                    lambda: rig.submissions == 2, 30, "strays, which are cancelled or told to exit"
                )
            first.send_signal(signal.SIGCONT)
            until(lambda: rig.log().count("standing_by") == 2, 30, f"it stands by: {rig.log()}")
            until(lambda: rig.agrees(2, "state2"), 30, f"{system.live()} are {known()}")
            assert rig.finished(rig.submit(4), 40)
            assert len(rig.registered()) == 2
            assert rig.submissions == (2 if place == "stop-before" else 1)

    def test_e20_all_is_adopted_after_total_loss_of_the_book(self, system):
        with sleepers(system, 2) as rig:
            edge = rig.edge()
            until(lambda: rig.agrees(2), 30, "two workers")
            before = rig.known()
            rig.kill(edge)
            rig.forget()
            rig.edge("--standby")  # it is another edge now, and waits for the first one's lease
            until(lambda: rig.agrees(2), 60, f"both are adopted: {rig.log()}")
            assert rig.known() == before
            assert rig.submissions == 1

    def test_e22_ticks_from_cron_do_what_the_daemon_does(self, system):
        with Rig(system, scaling={"max_total": 2}) as rig:
            jobs = rig.submit(10)
            states = set()
            for _ in range(60):
                rig.tick()
                states = set(rig.client.wait(jobs, 0.2).states.values())
                if states == {"finished"} and not rig.workers("phase != 'ended'"):
                    break
            assert states == {"finished"}
            assert not system.live()
            assert {row["ending"] for row in rig.workers()} <= {"idle_exit", "done"}

    def test_b4_a_batch_system_that_hangs_changes_no_verdict(self, system):
        self._silence(system, system.hang, system.wake)

    def test_b4_a_batch_system_that_is_down_changes_no_verdict(self, system):
        self._silence(system, system.down, system.up)

    def _silence(self, system, begin, end):
        """Nobody is given up or submitted again, another site goes on, and afterwards all is as
        before."""
        with sleepers(system, 2) as rig:
            rig.edge()
            until(lambda: rig.agrees(2), 30, "two workers")
            before = rig.known()
            begin()
            try:
                until(lambda: "listing_failed" in rig.log(), 40, "a listing fails")
                local = {"kind": "local", "limits": {"poll": "0.3s"}}
                slot = {"queue": "elsewhere"}
                rig.configure("other", "other", backend=local, slots={"std": slot})
                rig.edge()
                assert rig.finished(rig.submit(2, queue="elsewhere"), 30)
                assert rig.known() == before
            finally:
                end()
            until(lambda: rig.agrees(2), 60, f"all as before: {rig.log()}")
            assert rig.known() == before
            assert rig.submissions == 1

    def test_the_doctor_asks_about_each_slot_and_submits_nothing(self, system):
        usual = {"queue": "real", "cores": 1, "memory": "100M", "disk": "1M", "walltime": "1h"}
        slots = {name: {**usual, **slot} for name, slot, _ in self.never}
        with sleepers(system, 8, slots=slots) as rig:
            # Its pilot only sleeps: it tries no storage.
            found = examined(rig, "--no-probe")
            for about in ("slot std", "batch system", "dispatcher"):
                assert found[about]["verdict"] == "good", found
            for name, _, said in self.never:
                assert found[f"slot {name}"]["verdict"] == "bad", found
                assert said in found[f"slot {name}"]["said"], found
            assert not system.live()

    def test_the_doctor_has_a_pilot_try_storage_and_a_container_in_a_job(self, system):
        with Rig(system) as rig:
            found = examined(rig, "--node", "--wait", "100s")
            for about in ("container", "probe"):
                assert found[about]["verdict"] == "good", found
            assert "ended on" in found["probe"]["said"]
            assert not rig.workers()
            until(lambda: not system.live(), 30, "the probe job has gone")

    def test_a_cancelled_worker_is_cancelled_and_replaced(self, system):
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.agrees(1) and rig.workers("phase = 'starting'"), 30, "one runs")
            (first,) = rig.known()
            system.empty()
            until(lambda: rig.agrees(1) and rig.known() != [first], 40, "another one")
            (row,) = rig.workers("phase = 'ended'")
            assert row["ending"] == "cancelled", row


def examined(rig, *words):
    """What the doctor says of the site, by what it is about, as the user that the edge has."""
    system = rig.system
    doctor = [BIN / "harvester-edge", "doctor", "--json", *words, "--config", rig.site_file]
    env = {**clean(), **system.environment, "HOME": str(rig.directory / "home")}
    ran = subprocess.run(
        [*as_user(system.user), *doctor], capture_output=True, env=env, timeout=120, check=False
    )
    assert ran.returncode in (0, 78), ran.stderr
    return {one["about"]: one for one in json.loads(ran.stdout)["findings"]}


def refused(rig, reason):
    """Whether the only submission was refused for that reason, and nothing is left of it."""
    until(lambda: rig.workers("phase = 'ended'"), 20, f"it is refused: {rig.log()}")
    row = rig.workers("phase = 'ended'")[0]
    return row["outcome"] == "rejected" and reason in row["diagnosis"] and not rig.system.live()
