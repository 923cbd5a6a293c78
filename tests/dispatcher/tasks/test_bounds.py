"""What large tasks cost at once."""

from __future__ import annotations

import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.task import Verb
from ailurus.protocol.task_file import task_from
from dispatcher.refusal import Rejected
from dispatcher.service import tasks as service
from dispatcher.tasks import advance, intake, records
from tests.dispatcher.helpers import ALICE
from tests.dispatcher.tasks.test_tasks import NUMBERS, Tasks, step


@pytest.fixture(autouse=True)
def _brought_forward_by_hand(monkeypatch):
    monkeypatch.setattr(service.Tasks, "start", lambda self: None)


async def test_a_commit_takes_no_more_files_than_it_can(b, monkeypatch):
    monkeypatch.setattr(advance, "FILES", 2)
    t = Tasks(b)
    task = await t.submit(step("gen", NUMBERS), step("m", {"outputs": "gen"}, "m {item}"))
    await t.settled(task)
    await t.steer(task, Verb.PAUSE)
    worker = await b.worker()
    for one in await worker.acquire(5):
        files = (m.DoneFile(name="out", url=f"file:///{one.job_id}", size=1, adler32="0" * 8),)
        await worker.report(one, files=files)
    known = []
    while (await t.tasks.advance(task)).more:
        known.append((await t.row(task)).steps[1].items)
    assert known == [2, 4, 5]


async def test_a_page_of_tasks_that_say_much_has_few_and_the_next_goes_on(b, monkeypatch):
    t = Tasks(b)
    made = [await t.submit(step("a", NUMBERS, "true " + "x" * 1000)) for _ in range(5)]
    monkeypatch.setattr(records, "PAGE_BYTES", 3000)
    pages, before = [], None
    while not pages or before is not None:
        page = await t.tasks.tasks(api.TasksQuery(before=before), ALICE)
        pages.append([row.task_id for row in page.tasks])
        before = page.next
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [one for page in pages for one in page] == made[::-1]
    monkeypatch.setattr(records, "PAGE_BYTES", 10)
    page = await t.tasks.tasks(api.TasksQuery(limit=4), ALICE)
    assert (len(page.tasks), page.next) == (1, made[-1])


async def test_half_submitted_tasks_are_counted(b, monkeypatch):
    monkeypatch.setattr(intake, "MOST_ACTIVE", 2)
    t = Tasks(b)
    task = task_from({"task": "t", "steps": [step("a", NUMBERS)]})
    begin = {"owner": ALICE.subject, "group": "", "digest": "d", "now": 1.0}
    write = b.service.store.write
    for nr in range(2):
        await write(lambda tx, nr=nr: intake.begin(tx, task, request_id=f"half {nr}", **begin))
    with pytest.raises(Rejected, match="you have 2 tasks"):
        await t.submit(step("a", NUMBERS))


async def test_a_gate_larger_than_its_step_is_refused():
    steps = [step("a", NUMBERS), step("b", NUMBERS, gate={"after": "a 6"})]
    with pytest.raises(AilurusError, match="step a has only 5 items"):
        task_from({"task": "t", "steps": steps})
