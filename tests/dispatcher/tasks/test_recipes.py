"""Each recipe of the page on tasks comes to its end, with the jobs that it says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.task import TaskState
from dispatcher.cli.task import TaskFile
from tests.dispatcher.helpers import ALICE, Worker, new_id

PAGE = Path(__file__).parents[3] / "docs/tasks.md"
JOBS = {
    "toy-mc": {"generate": 3, "merge": 1},
    "chain": {"simulate": 3, "digitise": 3, "reconstruct": 3},
    "merge": {"analyse": 25, "some": 3, "all": 1},
    "scan": {"point": 3},
    "toys": {"toy": 40, "compare": 2},
    # How many lease items depends on who is first.
    "events": {"merge": 10},
}
FOUND = re.findall(r"```yaml\n(task: ([\w-]+)\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
RECIPES = {name: text for text, name in FOUND if " ask:" not in text}
"""Searches are tried by tests/real/test_searches.py."""


async def leased(worker: Worker, one: m.RawAssignment) -> tuple[m.DoneFile, ...]:
    """Run all items that a job may lease; what they leave."""
    files, ended, answer = list[m.DoneFile](), (), None
    while answer is None or not answer.settled:
        answer = await worker.exchange(one, 32, ended=ended)
        outcome = ItemOutcome.FINISHED
        ended = tuple(
            m.ItemEnd(index=item.index, attempt=item.attempt, outcome=outcome)
            for item in answer.items
        )
        files += [
            m.DoneFile(
                name=file.name,
                url=f"file:///s/{one.job_id}.{file.name}",
                size=1,
                adler32="0" * 8,
                item=item.index,
            )
            for item in answer.items
            for file in msgspec.json.decode(item.spec, type=ItemSpec).outputs
        ]
    return tuple(files)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_a_recipe_makes_these_jobs(b, tmp_path, name):
    file = tmp_path / "task.yaml"
    file.write_text(RECIPES[name])
    ask = m.SubmitTask(request_id=new_id(), task=TaskFile(str(file)).task)
    task_id = (await b.service.tasks.submit_task(ask, ALICE)).task_id
    worker, made = await b.worker(), Counter()
    while sum(made.values()) < sum(JOBS[name].values()):
        for one in await worker.acquire(20, wait_s=5.0):
            detail = await b.service.users.show(None, ALICE, job_id=one.job_id)
            if detail.spec.payloads is not None:
                files = await leased(worker, one)
                assert await worker.report(one, files=files) == "accepted"
                continue
            made[detail.spec.labels["step"]] += 1
            files = tuple(
                m.DoneFile(
                    name=f.name, url=f"file:///s/{one.job_id}.{f.name}", size=1, adler32="0" * 8
                )
                for f in detail.spec.outputs
            )
            assert await worker.report(one, files=files) == "accepted"
    while (await b.service.tasks.advance(task_id)).more:
        pass
    row = await b.service.tasks.task(api.TaskQuery(task_id=task_id), ALICE)
    assert row.row.state is TaskState.FINISHED
    assert made == JOBS[name]


def test_all_recipes_are_run():
    assert set(RECIPES) == set(JOBS)
