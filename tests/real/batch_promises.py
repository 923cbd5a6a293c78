"""What the edge promises on any batch system: a test file a system inherits these, and gives `system`."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest

from tests.real.batch_rig import Rig, System, until

KILLS = (
    "edge.planned", "edge.tokens", "edge.submitting", "kill-before", "kill-during", "kill-after",
    "edge.submitted", "edge.recorded", "edge.told",
)  # fmt: skip
LIES = ("accept-and-hang", "accept-and-fail", "banner", "two-ids", "half-a-line")


MANY = int(os.environ.get("AILURUS_KILLS", "4"))
SEED = int(os.environ.get("AILURUS_SEED", "1"))
QUICK = {"poll": "0.3s", "settle": "1s", "grace": "1s", "command_timeout": "3s"}


def sleepers(system: System, count: int, **more: Any) -> Rig:
    """A site that keeps `count` workers which only sleep."""
    scaling = {"max_total": count, "max_queued": count, "per_cycle": count, "floor": count}
    rig = Rig(system, scaling={**scaling, "idle_exit": "5m"}, **more)
    rig.configure(
        scaling={**scaling, "idle_exit": "5m"},
        pilot={"program": str(rig.directory / "idle")},
        **more,
    )
    return rig


class Promises:
    def test_jobs_run_and_nothing_is_left_when_idle(self, system):
        with Rig(system, scaling={"max_total": 3}) as rig:
            rig.edge()
            assert rig.finished(rig.submit(30)), rig.log()
            until(lambda: not system.live(), 30, "all workers have gone")
            until(lambda: not rig.known(), 30, "the edge knows it")
            endings = {row["ending"] for row in rig.workers()}
            assert endings <= {"idle_exit", "done"}, rig.workers()

    def test_e7_fifty_workers_cost_at_most_five_submit_commands(self, system):
        with sleepers(system, 50) as rig:
            rig.edge()
            until(lambda: rig.agrees(50), 60, "50 workers are there, each known once")
            assert rig.submissions <= 5

    @pytest.mark.parametrize("lie", LIES)
    def test_e2_a_submission_that_was_accepted_is_never_repeated(self, system, lie):
        with sleepers(system, 2) as rig:
            rig.lie(lie)
            rig.edge()
            until(lambda: rig.agrees(2), 30, f"both are adopted: {rig.log()}")
            assert rig.submissions == 1

    @pytest.mark.parametrize("place", KILLS)
    def test_b3_an_edge_killed_around_submit_leaks_and_duplicates_nothing(self, system, place):
        with sleepers(system, 2) as rig:
            if place.startswith("kill-"):
                rig.lie(place)
                edge = rig.edge()
            else:
                edge = rig.edge(AILURUS_FAILPOINTS=place)
            assert edge.wait(30) == -9
            rig.edge()
            until(lambda: rig.agrees(2), 40, f"two, both known: {system.live()} {rig.log()}")
            assert rig.submissions == (2 if place == "kill-before" else 1)

    @pytest.mark.timeout(60 + 20 * MANY)
    def test_b3_kills_in_a_row_leak_and_duplicate_nothing(self, system):
        """As many as AILURUS_KILLS says, wherever chance has it around a submission."""
        chance = random.Random(SEED)
        with sleepers(system, 2, backend={"limits": QUICK}) as rig:
            submissions = 0
            for nr in range(MANY):
                place = chance.choice((*KILLS, *LIES[1:]))
                if place in KILLS[:3] + KILLS[6:]:
                    edge = rig.edge(AILURUS_FAILPOINTS=place)
                else:
                    rig.lie(place)
                    edge = rig.edge()
                if place in LIES:
                    until(lambda: rig.agrees(2), 40, f"{nr}, {place}: both are adopted")
                    rig.kill(edge)
                assert edge.wait(60) == -signal.SIGKILL
                edge = rig.edge()
                until(lambda: rig.agrees(2), 60, f"{nr}, {place}: two, both known: {system.live()}")
                submissions += 2 if place == "kill-before" else 1
                assert rig.submissions == submissions, f"{nr}, {place}"
                rig.kill(edge)
                system.empty()

    def test_a_batch_system_that_hangs_changes_no_verdict(self, system):
        self._silence(system, system.hang, system.wake)

    def test_a_batch_system_that_is_down_changes_no_verdict(self, system):
        self._silence(system, system.down, system.up)

    def _silence(self, system, begin, end):
        with sleepers(system, 2) as rig:
            rig.edge()
            until(lambda: rig.agrees(2), 30, "two workers")
            before = rig.known()
            begin()
            try:
                until(lambda: "listing_failed" in rig.log(), 40, "a listing fails")
                assert rig.known() == before
            finally:
                end()
            until(lambda: rig.agrees(2), 60, f"all as before: {rig.log()}")
            assert rig.known() == before
            assert rig.submissions == 1

    def test_a_cancelled_worker_is_cancelled_and_replaced(self, system):
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.agrees(1) and rig.workers("phase = 'starting'"), 30, "one runs")
            (first,) = rig.known()
            system.empty()
            until(lambda: rig.agrees(1) and rig.known() != [first], 40, "another one")
            (row,) = rig.workers("phase = 'ended'")
            assert row["ending"] == "cancelled", row

    def test_all_is_adopted_after_total_loss_of_the_book(self, system):
        with sleepers(system, 2) as rig:
            edge = rig.edge()
            until(lambda: rig.agrees(2), 30, "two workers")
            before = rig.known()
            rig.kill(edge)
            rig.forget()
            rig.edge()
            until(lambda: rig.agrees(2), 60, f"both are adopted: {rig.log()}")
            assert rig.known() == before
            assert rig.submissions == 1
