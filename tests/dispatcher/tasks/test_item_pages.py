"""Items of a step as a page shows them: with their jobs, a bounded look each time."""

from __future__ import annotations

import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.task import Verb
from dispatcher.refusal import Rejected
from dispatcher.service import tasks as service
from dispatcher.tasks import item_pages
from tests.dispatcher.helpers import ALICE
from tests.dispatcher.tasks.test_tasks import Tasks, step


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    monkeypatch.setattr(service.Tasks, "start", lambda self: None)


async def looked(t: Tasks, task: int, name: str = "s", **query: object) -> m.TaskItemPage:
    ask = api.TaskItemsQuery(task_id=task, step=name, **query)
    return await t.tasks.task_items(ask, ALICE)


async def all_of(t: Tasks, task: int, **query: object) -> list[str]:
    found, after = [], -1
    while after is not None:
        page = await looked(t, task, after=after, **query)
        found += [row.item for row in page.items]
        after = page.next
    return found


async def test_items_are_listed_by_state_each_with_its_job(b):
    t = Tasks(b)
    items = ["a", "bad", {"name": "c.root", "size": 3}, {"x": 1}]
    task = await t.submit(step("s", {"list": items}, "do {index} {item}"))
    await t.settled(task)
    opened = await looked(t, task, state="open")
    assert [row.item for row in opened.items] == ["a", "bad", "c.root"]
    assert [row.job_id for row in opened.items] == [1, 2, 3]
    await t.work(task, bad="bad")
    assert await all_of(t, task, state="open", limit=1) == []
    assert await all_of(t, task, state="finished", limit=1) == ["a", "c.root"]
    failed, never = (await looked(t, task, state="failed")).items
    assert (failed.first, failed.items, failed.tries, failed.job_id) == (1, 1, 1, 2)
    # No job could be made of this one.
    assert (never.item, never.job_id, "item" in never.reason) == ('{"x":1}', None, True)
    assert await all_of(t, task, limit=3) == ["a", "bad", "c.root", '{"x":1}']
    with pytest.raises(Rejected, match="no step 'other'"):
        await looked(t, task, "other")


async def test_a_page_looks_at_so_many_and_the_next_goes_on(b, monkeypatch):
    monkeypatch.setattr(item_pages, "SCANNED", 2)
    t = Tasks(b)
    numbers = {"range": {"from": 10, "to": 50, "step": 10}}
    task = await t.submit(step("s", numbers, "do {item}"))
    await t.work(task, bad="0")
    await t.steer(task, Verb.RETRY)
    await t.work(task, bad="10")
    first = await looked(t, task, state="finished", limit=1)
    assert ([row.item for row in first.items], first.next) == (["20"], 1)
    assert await all_of(t, task, state="finished") == ["20", "30", "40", "50"]
    assert await all_of(t, task, state="failed") == ["10"]


async def test_no_page_decodes_large_items(b, monkeypatch):
    t = Tasks(b)
    task = await t.submit(step("s", {"list": ["x" * 1000]}))
    await t.settled(task)
    assert await all_of(t, task) == ["x" * item_pages.SHOWN + "…"]
    monkeypatch.setattr(item_pages, "SLICE_BYTES", 1000)
    assert await all_of(t, task) == [""]
