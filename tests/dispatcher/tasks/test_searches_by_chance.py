"""A search has each of its points once, whatever dies, and when."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.protocol.task import TaskState
from tests.dispatcher.helpers import ALICE, bench
from tests.dispatcher.tasks.searching import Searches, optuna, planned, task_of
from tests.dispatcher.tasks.test_by_chance import Crash, Crashing


@pytest.fixture(autouse=True)
def _by_hand(by_hand):
    """Nothing is done but what a test asks for."""


RUNS = [
    ("sqlite", 0),
    ("sqlite", 1),
    ("postgres", 1),
    *(
        pytest.param(*one, marks=pytest.mark.slow)
        for one in (("sqlite", 2), ("postgres", 0), ("postgres", 2))
    ),
]
"""By jobs with an even seed, by Optuna with an odd one."""


@pytest.mark.parametrize(("place", "seed"), RUNS, indirect=["place"])
async def test_no_point_comes_twice_whatever_is_killed(place, seed, fake):
    chance, done, task, worker = random.Random(seed), [], 0, None
    spec = [planned(max=10, ahead=1), optuna(max=9, batch=2)][seed % 2]
    request, crashes, state, reports, turns, asked = f"r{seed}", 0, None, [], 0, 0
    while state is not TaskState.FINISHED:
        async with bench(place) as b:
            t = Searches(b)
            worker = worker or await b.worker()
            worker.service = b.service
            b.service.state.store = Crashing(b.service.store, chance, 0.25)
            try:
                while state is not TaskState.FINISHED:
                    turns += 1
                    assert turns < 3000
                    ask = m.SubmitTask(request_id=request, task=task_of(spec))
                    task = (await t.tasks.submit_task(ask, ALICE)).task_id
                    await t.tasks.advance(task)
                    await t.tasks.plans.turn(task, 0)
                    # A pilot asks again until it has heard the answer.
                    got = await worker.acquire(2, request=f"a{seed}-{asked}")
                    asked += 1
                    reports += [(one, await t.run(one.job_id, done)) for one in got]
                    if reports:
                        one, result = chance.choice(reports)
                        await worker.report(one, result=result)
                        reports.remove((one, result))
                    row = await t.row(task)
                    state = row.state
                    assert state in (TaskState.RUNNING, TaskState.FINISHED), row.reason
            except Crash:
                crashes += 1
            finally:
                b.service.state.store = b.service.store
    assert crashes > 5
    assert row.steps[0].finished == row.steps[0].items == (10, 9)[seed % 2]
    async with bench(place) as b:
        page = await Searches(b).items(task, limit=1000)
        jobs = (await b.service.users.jobs(api.JobsQuery(limit=1000), ALICE)).jobs
    # Each point had one job, each question to a job another, and none of them is left over.
    assert Counter("planner" in job.name for job in jobs)[False] == (10, 9)[seed % 2]
    assert {job.state for job in jobs} == {JobState.FINISHED}
    points = [one.item["x"] for one in page.points]
    assert len(set(points)) == len(points) == (10, 9)[seed % 2]
