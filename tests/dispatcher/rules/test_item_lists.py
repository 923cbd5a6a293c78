"""Lists of items, uploaded in slices before the job that names them."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemSpec
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
    assert left == [(0,), None, []]
