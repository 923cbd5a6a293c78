"""A chain of steps through real pilots, its dispatcher and a pilot killed half-way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ailurus.protocol.api import JobsQuery
from ailurus.protocol.states import JobState
from ailurus.protocol.task import ENDED, TaskState
from ailurus.protocol.task_file import task_from
from tests.rig.programs import QUEUE, Rig
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow]
ITEMS = 40


def job(command: str, **fields: object) -> dict[str, object]:
    return {"command": command, "queue": QUEUE, "memory": "100M", "disk": "10M", **fields}


STEPS = [
    {
        "name": "square",
        "over": {"range": {"from": 1, "to": ITEMS}},
        "by": 4,
        "job": job(
            "for n in {items}; do echo $((n * n)); sleep 0.05; done > sq.txt", outputs=["sq.txt"]
        ),
    },
    {
        "name": "sum",
        "over": {"outputs": "square", "match": "sq.*"},
        "by": 3,
        "job": job("cat {items} | sort > s.txt", inputs=["{items}"], outputs=["s.txt"]),
    },
    {
        "name": "all",
        "over": {"outputs": ["sum"]},
        "by": "all",
        "job": job("cat {items} | sort -n > all.txt", inputs=["{items}"], outputs=["all.txt"]),
    },
]


def test_each_item_is_in_the_last_file_once_though_all_is_killed_half_way():
    with Rig(heartbeat_s=1, cores=4) as rig:
        pilot = rig.pilot()
        task_id = rig.client.submit_task(task_from({"task": "squares", "steps": STEPS})).task_id

        def step(nr: int):
            return rig.client.task(task_id).row.steps[nr]

        until(lambda: step(0).finished >= ITEMS // 4, 60, "a quarter finishes")
        rig.dispatcher.kill()
        rig.dispatchers[0] = rig.serve()
        until(lambda: step(0).finished >= ITEMS // 2, 60, "half of them finish")
        pilot.kill()
        rig.pilot()
        until(lambda: rig.client.task(task_id).row.state in ENDED, 90, "the task ends")
        row = rig.client.task(task_id).row
        assert row.state is TaskState.FINISHED, row
        assert [(one.items, one.finished, one.jobs) for one in row.steps] == [
            (ITEMS, ITEMS, 10),
            (10, 10, 4),
            (4, 4, 1),
        ]
        page = rig.client.jobs(JobsQuery(name="squares.all.0"))
        assert [one.state for one in page.jobs] == [JobState.FINISHED]
        (file,) = rig.client.show(page.jobs[0].job_id).files
        numbers = Path(file.url.removeprefix("file://")).read_text("utf-8").split()
        assert list(map(int, numbers)) == [n * n for n in range(1, ITEMS + 1)]
