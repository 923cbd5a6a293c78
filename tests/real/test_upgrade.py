"""R7: this version and the one before, of each program, in all pairs and with jobs in flight.

The one before is the newest release; until there is one, a commit stands for it.
"""

from __future__ import annotations

import itertools
import os

import pytest

from ailurus.wire.client import Refused
from tests.rig import history, version
from tests.rig.programs import BIN, Rig, null_job
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]
SITE = {
    "scaling": {"max_total": 2, "max_queued": 2, "per_cycle": 2, "idle_exit": "3s"},
    # The version before knows no `outage_tolerance`.
    "tries": {},
}


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Where the programs of each version are."""
    commit = version.before()
    if commit is None:
        why = "the version before is not in this clone's history: git fetch --unshallow --tags"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    folder = tmp_path_factory.mktemp("before")
    folder.chmod(0o755)
    return {"old": version.programs(commit, folder), "new": BIN}


def jobs(rig, n, seconds=0.0):
    """Submit jobs with an output each; what is expected of them."""
    asked = [
        null_job(
            nr, command=f"sleep {seconds}; printf {nr} > out.txt", outputs=[{"name": "out.txt"}]
        )
        for nr in range(n)
    ]
    return {job: str(nr).encode() for nr, job in enumerate(rig.client.submit(asked).job_ids)}


def all_finished_once(rig, expected):
    states = rig.client.wait(list(expected), 90).states
    assert set(states.values()) == {"finished"}
    for program in reversed(rig.programs):
        program.stop()
    assert list(history.faults(rig, list(expected), expected)) == []
    assert history.attempts(rig) == {"finished": len(expected)}


@pytest.mark.parametrize(
    ("dispatcher", "edge", "pilot"),
    [one for one in itertools.product(("old", "new"), repeat=3) if len(set(one)) > 1],
)
def test_r7_old_and_new_programs_work_together(sides, dispatcher, edge, pilot):
    program = {"program": str(sides[pilot] / "pilot")}
    with Rig(programs=sides[dispatcher], pilot=program, **SITE) as rig:
        rig.programs_at(sides[edge])
        rig.start_edge()
        all_finished_once(rig, jobs(rig, 4))


@pytest.mark.parametrize(("first", "second"), [("old", "new"), ("new", "old")])
def test_r7_a_site_changes_its_version_while_jobs_run(sides, first, second):
    """Dispatcher, then edge, then pilots: each is restarted while payloads run, which notice
    nothing."""
    with Rig(programs=sides[first], pilot={"program": str(sides[first] / "pilot")}, **SITE) as rig:
        edge = rig.start_edge()
        expected = jobs(rig, 8, seconds=4)
        until(lambda: rig.client.overview().states.get("running", 0) >= 4, 30, "payloads run")
        rig.dispatcher.stop()
        rig.programs_at(sides[second], pilot={"program": str(sides[second] / "pilot")})
        rig.serve()
        edge.stop()
        rig.start_edge()
        until(lambda: not rig.pilots(), 60, "pilots of the version before have left")
        expected |= jobs(rig, 4)
        all_finished_once(rig, expected)


def test_r7_an_old_dispatcher_refuses_what_it_does_not_know_by_its_field(sides):
    tree = [{"name": "results/", "tree": "archive"}]
    with Rig(programs=sides["old"], tries={}) as rig:
        for outputs in (tree, [{"name": "results/*.root"}], [{"name": "results/a"}]):
            with pytest.raises(Refused) as caught:
                rig.client.submit([null_job(outputs=outputs)])
            assert "outputs[0]" in caught.value.field


def test_r7_a_job_that_an_old_pilot_does_not_know_waits_for_a_new_one(sides):
    job = null_job(command="mkdir r && echo 1 > r/a", outputs=[{"name": "r/", "tree": "dataset"}])
    with Rig(heartbeat_s=1.0) as rig:
        old = rig.pilot(program=sides["old"] / "pilot")
        (job_id,) = rig.client.submit([job]).job_ids
        until(lambda: not old.alive, 60, "the old pilot has left")
        assert rig.client.show(job_id).row.state not in ("failed", "finished")
        rig.pilot()
        assert rig.client.wait([job_id], 90).states == {job_id: "finished"}
