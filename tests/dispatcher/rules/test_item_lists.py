"""Lists of items, uploaded in slices before the job that names them."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol import trees
from ailurus.protocol.api import ItemQuery, NoQuery
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import InputFile, OutputFile
from dispatcher.refusal import Rejected
from dispatcher.rules import item_lists, retention
from tests.dispatcher.helpers import ALICE, BOB, job, new_id
from tests.dispatcher.rules.test_items import all_done, listed


def slice_(first: int, count: int = 2, name: str = "mine", **fields: object) -> m.AddItems:
    specs = tuple(ItemSpec(arguments=(str(first + nr),), **fields) for nr in range(count))
    return m.AddItems(list=name, first=first, items=specs)


async def test_a_slice_that_comes_again_changes_nothing(b):
    for ask in (slice_(0), slice_(2), slice_(0), slice_(2)):
        answer = await b.service.items.add_items(ask, ALICE)
    assert answer.count == 4


@pytest.mark.parametrize(
    ("ask", "remedy"),
    [(slice_(4), "go on with item 2"), (slice_(0, 1), "own name")],
)
async def test_a_slice_out_of_order_or_with_other_items_is_refused(b, ask, remedy):
    await b.service.items.add_items(slice_(0), ALICE)
    with pytest.raises(Rejected) as refused:
        await b.service.items.add_items(ask, ALICE)
    assert remedy in refused.value.remedy


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"payloads": ("mine", 3)}, "payloads"), ({"payloads": ("other", 2)}, "payloads"),
     ({"payloads": ("mine", 2), "command": ""}, "payloads"),
     ({"payloads": ("mine", 2), "cores": 3}, "cores")],
)  # fmt: skip
async def test_a_job_whose_items_are_not_there_or_do_not_fit_is_refused(b, fields, field):
    await b.service.items.add_items(slice_(0, cores=4), ALICE)
    spec = job(**{"cores": 4, **fields, "payloads": await listed(*fields["payloads"])})
    with pytest.raises(Rejected) as refused:
        await b.submit(spec)
    assert refused.value.field == f"jobs[0].{field}"


async def test_a_list_is_its_owners(b):
    await b.service.items.add_items(slice_(0), ALICE)
    with pytest.raises(Rejected):
        await b.submit(job(payloads=await listed("mine", 2)), caller=BOB)


async def test_lists_that_no_job_names_are_bounded_and_forgotten(b):
    for nr in range(item_lists.MOST_UNUSED):
        await b.service.items.add_items(slice_(0, 1, f"l{nr}"), ALICE)
    with pytest.raises(Rejected):
        await b.service.items.add_items(slice_(0, 1, "more"), ALICE)
    now = b.service.state.now() + item_lists.UNUSED_S + 1
    while await b.service.store.write(lambda tx: item_lists.trim(tx, now=now)):
        pass
    await b.service.items.add_items(slice_(0, 1, new_id()), ALICE)


async def test_lists_that_no_job_names_have_a_size_of_all_together(b, monkeypatch):
    monkeypatch.setattr(item_lists, "MOST_UNUSED_BYTES", 200)
    await b.service.items.add_items(slice_(0, 1, "one", environment={"A": "x" * 60}), ALICE)
    with pytest.raises(Rejected) as refused:
        await b.service.items.add_items(slice_(0, 1, "two", environment={"A": "x" * 60}), ALICE)
    assert refused.value.status == 429
    await b.service.items.add_items(slice_(0, 1, "theirs", environment={"A": "x" * 60}), BOB)
    # A job has named it.
    await b.submit(job(payloads=await listed("one", 1)))
    await b.service.items.add_items(slice_(0, 1, "two", environment={"A": "x" * 60}), ALICE)


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (OutputFile(name="a", scope="user.ann"), "items[1].outputs[1].scope"),
        (OutputFile(name="a/"), "items[1].outputs[1].tree"),
        (OutputFile(name="ok"), "items[1].outputs"),
    ],
)
async def test_outputs_of_an_item_that_could_not_be_meant_are_refused(b, file, field):
    items = (ItemSpec(), ItemSpec(outputs=(OutputFile(name="ok"), file)))
    with pytest.raises(Rejected) as refused:
        await b.service.items.add_items(m.AddItems(list="mine", first=0, items=items), ALICE)
    assert refused.value.field == field


async def test_outputs_of_one_name_are_refused_where_one_slice_has_both(b):
    same = ItemSpec(outputs=(OutputFile(name="hist.root"), OutputFile(name="*.log")))
    ask = m.AddItems(list="mine", first=0, items=(ItemSpec(), same, same))
    with pytest.raises(Rejected) as refused:
        await b.service.items.add_items(ask, ALICE)
    assert refused.value.field == "items[2].outputs[0].name"
    assert "payloads 1 and 2 have the same output 'hist.root'" in str(refused.value)


async def test_outputs_of_one_name_are_refused_where_two_slices_have_one_each(b):
    def named(first: int, *names: str) -> m.AddItems:
        items = tuple(ItemSpec(outputs=(OutputFile(name=name),)) for name in names)
        return m.AddItems(list="mine", first=first, items=items)

    await b.service.items.add_items(named(0, "a", "*.log"), ALICE)
    with pytest.raises(Rejected) as refused:
        await b.service.items.add_items(named(2, "*.log", "a"), ALICE)
    assert refused.value.field == "items[1].outputs"
    assert "payloads 0 and 3 have the same output 'a'" in str(refused.value)
    for ask in (named(2, "*.log", "b"), named(0, "a", "*.log"), named(2, "*.log", "b")):
        answer = await b.service.items.add_items(ask, ALICE)
    assert answer.count == 4


async def test_a_list_names_no_more_outputs_than_any_job_may_leave(b, monkeypatch):
    monkeypatch.setattr(trees, "MOST_FILES", 4)
    await b.service.items.add_items(slice_(0, 2, outputs=(OutputFile(name="a*"),)), ALICE)
    with pytest.raises(Rejected, match="name 4 outputs"):
        await b.service.items.add_items(slice_(2, 2, outputs=(OutputFile(name="a*"),)), ALICE)


async def test_inputs_of_one_name_are_refused_where_one_slice_has_others(b):
    def items(*urls: str) -> m.AddItems:
        files = [InputFile(name="in.root", url=url) for url in urls]
        return m.AddItems(
            list=new_id(), first=0, items=tuple(ItemSpec(inputs=(file,)) for file in files)
        )

    await b.service.items.add_items(items("file:///s/a", "file:///s/a"), ALICE)
    with pytest.raises(Rejected) as refused:
        await b.service.items.add_items(items("file:///s/a", "file:///s/b"), ALICE)
    assert refused.value.field == "items[1].inputs[0].name"
    assert "payloads 0 and 1 have other inputs called 'in.root'" in str(refused.value)


async def test_items_of_a_job_leave_no_more_files_than_a_job_may(b, monkeypatch):
    monkeypatch.setattr(trees, "MOST_FILES", 4)
    await b.service.items.add_items(slice_(0, 3, outputs=(OutputFile(name="a*"),)), ALICE)
    await b.submit(job(payloads=await listed("mine", 3)))
    with pytest.raises(Rejected) as refused:
        await b.submit(job(payloads=await listed("mine", 3), outputs=(OutputFile(name="b"),)))
    assert refused.value.field == "jobs[0].payloads"


async def test_what_an_item_left_is_its_own_and_goes_with_an_attempt_that_is_lost(b):
    await b.service.items.add_items(slice_(0, 2, outputs=(OutputFile(name="a*"),)), ALICE)
    (job_id,) = await b.submit(job(payloads=await listed("mine", 2)))
    lost = await b.worker()
    (one,) = await lost.acquire()
    await all_done(lost, one)
    await b.forward(2**40)
    worker = await b.worker()
    (two,) = await worker.acquire()
    assert len((await worker.exchange(two, 10)).items) == 2
    await worker.exchange(two, ended=tuple(item_end(nr) for nr in range(2)))
    url = "file:///s/1.2.a"
    left = m.DoneFile(name="a", url=url, size=1, adler32="00620062", item=1)
    await worker.report(two, files=(left,))
    found = [
        await b.service.items.item(ItemQuery(index=nr), ALICE, job_id=job_id) for nr in range(2)
    ]
    assert [[(file.url, file.item) for file in item.files] for item in found] == [[], [(url, 1)]]


async def test_what_finished_items_left_is_the_users_also_if_the_goal_was_missed(b):
    await b.service.items.add_items(slice_(0, 2, outputs=(OutputFile(name="a*"),)), ALICE)
    (job_id,) = await b.submit(job(payloads=await listed("mine", 2)))
    worker = await b.worker()
    (one,) = await worker.acquire()
    await worker.exchange(one, 10)
    outcomes = (ItemOutcome.FINISHED, ItemOutcome.FAILED)
    ends = [m.ItemEnd(index=nr, attempt=1, outcome=outcome) for nr, outcome in enumerate(outcomes)]
    await worker.exchange(one, ended=tuple(ends))
    left = m.DoneFile(name="a0", url="file:///s/1.1.a0", size=1, adler32="00620062", item=0)
    await worker.report(one, files=(left,), remedy="a file is kept if the job names it")
    shown = await b.service.users.show(NoQuery(), ALICE, job_id=job_id)
    assert shown.row.state == "failed"
    assert [file.name for file in shown.files] == ["a0"]
    assert "--items failed" in shown.attempts[0].remedy
    own, failed = [
        await b.service.items.item(ItemQuery(index=nr), ALICE, job_id=job_id) for nr in range(2)
    ]
    assert [file.name for file in own.files] == ["a0"]
    assert failed.remedy.startswith(f"dispatcher retry {job_id} runs what failed again")


def item_end(nr: int) -> m.ItemEnd:
    return m.ItemEnd(index=nr, attempt=2, outcome=ItemOutcome.FINISHED)


async def test_what_a_job_had_goes_with_it(b):
    job_id = await b.carrying(2500)
    worker = await b.worker()
    (one,) = await worker.acquire()
    await all_done(worker, one)
    await worker.report(one)
    while await b.service.store.write(lambda tx: retention.tidy(tx, before=4e9)):
        pass
    while await b.service.store.write(lambda tx: item_lists.trim(tx, now=4e9)):
        pass
    assert (await b.counts(job_id)).finished == 2500
    left = await b.service.store.read(
        lambda tx: [tx.one("list.unused", owner="alice"), tx.one("cluster.left"),
                    tx.all("item.page", cluster_id=job_id, after=-1, most=5)]
    )  # fmt: skip
    assert left == [(0, 0), None, []]


async def long_ones(b, count: int) -> int:
    """A job with items of 1.5 MB, each in a slice of its own."""
    for nr in range(count):
        spec = ItemSpec(name=f"i{nr}", arguments=("x" * 125_000,) * 12)
        await b.service.items.add_items(m.AddItems(list="long", first=nr, items=(spec,)), ALICE)
    (job_id,) = await b.submit(job(payloads=await listed("long", count)))
    return job_id


async def test_however_long_items_are_no_answer_is(b):
    job_id = await long_ones(b, 14)
    page = await b.items(job_id, limit=1000)
    assert 1 <= len(page.items) < 10
    names = [row.name for row in page.items]
    while page.next is not None:
        page = await b.items(job_id, limit=1000, after=page.next)
        names += [row.name for row in page.items]
    assert names == [f"i{nr}" for nr in range(14)]


async def test_long_items_are_leased_some_at_a_time_and_all_in_the_end(b):
    await long_ones(b, 14)
    worker = await b.worker()
    (one,) = await worker.acquire()
    first = await worker.exchange(one, 1000, request="r")
    assert 1 <= len(first.items) < 10
    assert first.waiting == 14 - len(first.items)
    assert await worker.exchange(one, 1000, request="r") == first
    failed = [
        m.ItemEnd(index=i.index, attempt=1, outcome=ItemOutcome.FAILED, transient=True)
        for i in first.items
    ]
    second = await worker.exchange(one, 1000, request="s", ended=tuple(failed))
    again = await worker.exchange(one, 1000, request="s")
    assert [i.index for i in again.items] == [i.index for i in second.items]
    assert sum(len(bytes(i.spec)) for i in second.items) < 20 << 20
    assert (await all_done(worker, one)).waiting == 0


async def test_an_item_that_is_too_long_for_linux_is_refused(b):
    spec = ItemSpec(arguments=("x" * 130_000,) * 20)
    with pytest.raises(Rejected) as refused:
        await b.service.items.add_items(m.AddItems(list="l", first=0, items=(spec,)), ALICE)
    assert refused.value.field == "items[0]"
