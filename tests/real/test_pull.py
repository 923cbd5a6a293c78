"""A step whose items five pilots lease, two of them and the dispatcher killed half-way."""

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
ITEMS = 1000


def job(**fields: object) -> dict[str, object]:
    return {"queue": QUEUE, "memory": "200M", "disk": "50M", "cores": 2, **fields}


STEPS = [
    {
        "name": "square",
        "over": {"range": {"from": 1, "to": ITEMS}},
        "pull": {"consumers": 5, "items": 60},
        "job": job(
            payloads={
                "command": "sleep 0.02; echo $(({item} * {item})) > sq-{index}.txt",
                "outputs": ["sq-{index}.txt"],
                "memory": "50M",
            }
        ),
    },
    {
        "name": "all",
        "over": {"outputs": "square"},
        "by": "all",
        "job": job(
            command="cat *.sq-*.txt | sort -n > all.txt", inputs=["{items}"], outputs=["all.txt"]
        ),
    },
]


def test_each_of_1000_items_is_in_the_merged_file_once_though_pilots_and_dispatcher_are_killed():
    with Rig(heartbeat_s=1, cores=2) as rig:
        pilots = [rig.pilot() for _ in range(5)]
        task_id = rig.client.submit_task(task_from({"task": "es", "steps": STEPS})).task_id

        def step(nr: int):
            return rig.client.task(task_id).row.steps[nr]

        until(lambda: step(0).finished >= ITEMS // 4, 60, "a quarter finishes")
        pilots[0].kill()
        rig.dispatcher.kill()
        rig.dispatchers[0] = rig.serve()
        until(lambda: step(0).finished >= ITEMS // 2, 60, "half of them finish")
        pilots[1].kill()
        until(lambda: rig.client.task(task_id).row.state in ENDED, 120, "the task ends")
        row = rig.client.task(task_id).row
        assert row.state is TaskState.FINISHED, row
        assert [(one.items, one.finished) for one in row.steps] == [(ITEMS, ITEMS)] * 2
        page = rig.client.jobs(JobsQuery(name="es.all.0"))
        assert [one.state for one in page.jobs] == [JobState.FINISHED]
        (file,) = rig.client.show(page.jobs[0].job_id).files
        numbers = Path(file.url.removeprefix("file://")).read_text("utf-8").split()
        assert list(map(int, numbers)) == [n * n for n in range(1, ITEMS + 1)]
        # Some had been leased again.
        ((again,),) = rig.rows("select count(*) from item where attempt > 1")
        assert again > 0
