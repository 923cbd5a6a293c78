"""The searches of the page on tasks, by real pilots, with Optuna; their dispatcher is killed
half-way."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ailurus.protocol.api import JobsQuery
from ailurus.protocol.states import JobState
from ailurus.protocol.task import ENDED, TaskState
from ailurus.protocol.task_file import task_from
from tests.rig.programs import QUEUE, Rig
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/searches"
PAGE = (ROOT / "docs/tasks.md").read_text("utf-8")
SMALL = {"queue": QUEUE, "memory": "100M", "disk": "10M"}


@pytest.fixture(scope="module")
def rig():
    with Rig(heartbeat_s=1, cores=4) as rig:
        shutil.copytree(EXAMPLES, rig.storage / "searches")
        rig.pilot()
        yield rig


def small(tree: dict) -> dict:
    """The same, in jobs that are as small as they are."""
    for step in tree["steps"]:
        step["job"].update(SMALL)
        if job := step["over"]["ask"].get("job"):
            job.update(SMALL)
    return tree


def submitted(rig, name: str) -> int:
    text = (EXAMPLES / name).read_text("utf-8")
    assert f"```yaml\n{text}```" in PAGE
    task = task_from(small(yaml.safe_load(text)), str(rig.storage / "searches"))
    return rig.client.submit_task(task).task_id


def jobs_of(rig, task_id: int) -> list:
    page = rig.client.jobs(JobsQuery(query=f"label:task={task_id}", limit=1000))
    assert {job.state for job in page.jobs} == {JobState.FINISHED}
    return list(page.jobs)


def test_optuna_finds_good_parameters_though_the_dispatcher_is_killed(rig):
    task_id = submitted(rig, "tune.yaml")
    until(lambda: rig.client.task(task_id).row.steps[0].finished >= 6, 60, "some are evaluated")
    rig.dispatcher.kill()
    rig.dispatchers[0] = rig.serve()
    until(lambda: rig.client.task(task_id).row.state in ENDED, 90, "the search ends")
    row = rig.client.task(task_id).row
    assert row.state is TaskState.FINISHED, row
    items = rig.client.points(task_id, "train").points
    assert len({str(one.item) for one in items}) == len(items) == row.steps[0].finished == 24
    assert row.steps[0].best.item["model"] == "parabola"
    assert row.steps[0].best.loss == min(one.loss for one in items) < 0.05
    assert len(jobs_of(rig, task_id)) == 24


def test_a_job_learns_where_to_look(rig):
    task_id = submitted(rig, "learn.yaml")
    until(lambda: rig.client.task(task_id).row.state in ENDED, 90, "the search ends")
    row = rig.client.task(task_id).row
    assert row.state is TaskState.FINISHED, row
    items = rig.client.points(task_id, "simulate").points
    assert len(items) == 15
    # All but the first look where the response rises.
    assert all(0.25 <= one.item["x"] <= 0.5 for one in items[3:])
    plans = [job for job in jobs_of(rig, task_id) if "planner" in job.name]
    assert len(plans) == 6


def test_a_program_of_ones_own_goes_downhill(rig):
    (code,) = re.findall(r"```python\n(# Called with the.*?)```", PAGE, re.DOTALL)
    program = rig.directory / "descent.py"
    program.write_text(f"{code}print(task)\n", "utf-8")
    argv = [sys.executable, program, rig.url, rig.admin_token]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    task_id = int(done.stdout)
    until(lambda: rig.client.task(task_id).row.state in ENDED, 60, "the search ends")
    row = rig.client.task(task_id).row
    assert row.state is TaskState.FINISHED, row
    assert row.steps[0].best.loss < 1
