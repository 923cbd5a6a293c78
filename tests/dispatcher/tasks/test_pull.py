"""Steps whose items jobs lease: each is done once, whoever is lost, and whatever is told of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import msgspec
import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.item import ItemOutcome
from ailurus.protocol.job import JobSpec
from ailurus.protocol.job_queries import LogQuery
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.states import JobState
from ailurus.protocol.task import TaskState, Verb
from ailurus.protocol.task_file import task_from
from dispatcher.refusal import Rejected
from dispatcher.rules import item_lists
from dispatcher.service import tasks as service
from dispatcher.tasks import retention
from tests.dispatcher.helpers import ALICE, Worker, bench, job, new_id


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    """The test itself brings tasks forward."""
    monkeypatch.setattr(service.Tasks, "start", lambda self: None)


def pull(items: int, consumers: object = 2, **fields: object) -> dict[str, object]:
    """A step over so many items, leased by so many jobs."""
    payloads = {"arguments": ["{item}"], **fields.pop("payloads", {})}
    return {
        "name": "sim",
        "over": {"range": {"from": 1, "to": items}},
        "pull": consumers,
        "job": {"command": "./sim", "queue": "q", "payloads": payloads},
        **fields,
    }


def ends(*leases: m.RawItemLease, outcome: ItemOutcome = ItemOutcome.FINISHED, **facts: object):
    return tuple(
        m.ItemEnd(index=one.index, attempt=one.attempt, outcome=outcome, **facts) for one in leases
    )


class Pulled:
    """A task of Alice."""

    def __init__(self, b) -> None:
        self.b, self.tasks, self.id = b, b.service.tasks, 0

    async def submit(self, *steps: dict) -> None:
        ask = m.SubmitTask(request_id=new_id(), task=task_from({"task": "t", "steps": steps}))
        self.id = (await self.tasks.submit_task(ask, ALICE)).task_id
        await self.settled()

    async def settled(self) -> m.TaskRow:
        """How it stands once the loop has done all that it can."""
        while (await self.tasks.advance(self.id)).more:
            pass
        return (await self.tasks.task(api.TaskQuery(task_id=self.id), ALICE)).row

    async def steer(self, verb: Verb) -> m.TaskRow:
        await self.tasks.steer_task(m.SteerTask(task_id=self.id, verb=verb), ALICE)
        return await self.settled()

    async def consumers(self, count: int):
        """So many workers, each with a job that leases."""
        found = []
        for _ in range(count):
            worker = await self.b.worker()
            (one,) = await worker.acquire(1)
            found.append((worker, one))
        return found


async def test_jobs_lease_items_and_the_step_is_over_when_each_has_ended(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(10, 2))
        (one, first), (two, second) = await task.consumers(2)
        assert msgspec.json.decode(first.spec)["payloads"]["shared"] is True
        a = await one.exchange(first, 3)
        c = await two.exchange(second, 3)
        assert [lease.index for lease in (*a.items, *c.items)] == [0, 1, 2, 3, 4, 5]
        said = msgspec.json.decode(a.items[0].spec)
        assert said == {"arguments": ["1"]}
        begun = (m.ItemBegun(index=0, attempt=1, at=1.0),)
        await one.exchange(first, 0, begun=begun)
        row = (await task.settled()).steps[0]
        assert (row.waiting, row.open, row.running, row.open_jobs) == (4, 6, 1, 2)
        assert row.sentence == (
            "0 of 10 items have finished, 6 are leased by 2 jobs, 1 of them run, "
            "4 wait for room in one of its jobs"
        )
        while not (got := await one.exchange(first, 4, ended=ends(*a.items))).settled:
            a = got
        assert not (await two.exchange(second, 0)).settled
        assert (await two.exchange(second, 1, ended=ends(*c.items))).settled
        assert await one.report(first) == "accepted"
        assert (await task.settled()).state is TaskState.RUNNING
        assert await two.report(second) == "accepted"
        row = await task.settled()
        assert row.state is TaskState.FINISHED
        assert (row.steps[0].finished, row.steps[0].jobs) == (10, 2)


async def test_what_a_lost_attempt_had_is_leased_again_and_its_late_word_is_not_heard(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(4, 2))
        (one, first), (two, second) = await task.consumers(2)
        a = await one.exchange(first, 2)
        c = await two.exchange(second, 2)
        assert not (await two.exchange(second, 2, ended=ends(*c.items))).items
        await lose(b, two, second)
        assert await b.state(first.job_id) is JobState.ACTIVATED
        again = await two.exchange(second, 2)
        assert [(item.index, item.attempt) for item in again.items] == [(0, 2), (1, 2)]
        # The first worker comes back.
        late = await one.exchange(first, 2, ended=ends(*a.items))
        assert not late.items
        assert (await task.settled()).steps[0].finished == 2
        assert (await two.exchange(second, 1, ended=ends(*again.items))).settled
        await two.report(second)
        row = await task.settled()
        # Nobody waits for the other job, which had nothing left to do.
        assert row.state is TaskState.FINISHED
        assert await b.state(first.job_id) is JobState.CANCELLED


async def test_nobody_tells_of_items_of_others_and_nobody_takes_all(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(100, 2))
        (one, first), (two, second) = await task.consumers(2)
        a = await one.exchange(first, 1000)
        # Four for each core of its job, whatever is asked.
        assert len(a.items) == 4
        assert not (await one.exchange(first, 1000)).items
        # The same request gets the same.
        c = await two.exchange(second, 2, request="same")
        assert (await two.exchange(second, 2, request="same")).items == c.items
        stolen = (*ends(*a.items[1:]), m.ItemEnd(index=50, attempt=1, outcome=ItemOutcome.FINISHED))
        begun = (m.ItemBegun(index=a.items[0].index, attempt=1, at=1.0),)
        got = await two.exchange(second, 0, ended=stolen, begun=begun)
        assert [one.index for one in got.stop] == [a.items[0].index]
        assert (await task.settled()).steps[0].finished == 0
        await one.exchange(first, 0, ended=ends(*a.items[:1]))
        # Twice, and the other way round: it counts once.
        await one.exchange(first, 0, ended=ends(*a.items[:1], outcome=ItemOutcome.FAILED))
        await one.exchange(first, 0, ended=ends(*a.items[:1]))
        row = (await task.settled()).steps[0]
        assert (row.finished, row.failed, row.open) == (1, 0, 5)
        # What another wrote is not its to tell.
        piece = m.LogPiece(
            job_id=second.job_id,
            attempt_nr=1,
            stream="stdout",
            offset=0,
            text="lie",
            item=a.items[1].index,
            item_attempt=1,
        )
        mine = msgspec.structs.replace(piece, item=c.items[0].index, text="mine")
        await two.service.workers.log_pieces(m.LogPieces(pieces=(piece, mine)), two.caller)
        for index, text in ((a.items[1].index, ""), (c.items[0].index, "mine")):
            ask = LogQuery(item=index)
            found = await b.service.users.log(ask, ALICE, job_id=second.job_id)
            assert found.text == text


async def test_items_that_fail_are_tried_again_and_a_retry_begins_with_those_alone(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(3, 1, failed={"attempts": 2}))
        ((one, first),) = await task.consumers(1)
        bad = {"outcome": ItemOutcome.FAILED, "exit_code": 1, "diagnosis": "exit code 1"}
        a = await one.exchange(first, 3)
        a = await one.exchange(first, 3, ended=(*ends(*a.items[:2]), *ends(a.items[2], **bad)))
        assert [(item.index, item.attempt) for item in a.items] == [(2, 2)]
        assert (await one.exchange(first, 1, ended=ends(*a.items, **bad))).settled
        await one.report(first)
        row = await task.settled()
        assert row.state is TaskState.FAILED
        assert row.reason == "step sim: 1 of 3 items have failed"
        page = await b.items(first.job_id, state="failed")
        assert [(item.index, item.diagnosis) for item in page.items] == [(2, "exit code 1")]
        row = await task.steer(Verb.RETRY)
        assert (row.state, row.steps[0].waiting, row.steps[0].open_jobs) == ("running", 1, 1)
        ((two, second),) = await task.consumers(1)
        a = await two.exchange(second, 3)
        assert [item.index for item in a.items] == [2]
        assert (await two.exchange(second, 1, ended=ends(*a.items))).settled
        await two.report(second)
        assert (await task.settled()).state is TaskState.FINISHED


async def lose(b, worker: Worker, one: m.RawAssignment) -> None:
    """Let time pass in which only one worker is heard."""
    for _ in range(10):
        await b.forward(20.0)
        await worker.beat(one)


def left(job_id: int, *leases: m.RawItemLease) -> tuple[m.DoneFile, ...]:
    return tuple(
        m.DoneFile(
            name=f"out-{one.index}",
            url=f"file:///s/{job_id}.{one.index}.{one.attempt}",
            size=1,
            adler32="0" * 8,
            item=one.index,
        )
        for one in leases
    )


MERGE = {
    "name": "merge",
    "over": {"outputs": "sim"},
    "by": "all",
    "job": {"command": "cat {items}", "queue": "q", "inputs": ["{items}"], "outputs": ["all"]},
}


async def test_outputs_count_once_their_job_has_reported_and_those_of_a_lost_one_are_made_anew(
    tmp_path,
):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(4, 2, payloads={"outputs": ["out-{index}"]}), MERGE)
        (one, first), (two, second) = await task.consumers(2)
        a = await one.exchange(first, 2)
        c = await two.exchange(second, 2)
        await one.exchange(first, 0, ended=ends(*a.items))
        await two.exchange(second, 0, ended=ends(*c.items))
        await lose(b, two, second)
        # They had finished, and what they left was nowhere else.
        again = await two.exchange(second, 2)
        assert [item.index for item in again.items] == [0, 1]
        # The lost attempt wins the race for its own job's end, and not for the items.
        assert await one.report(first, files=left(first.job_id, *a.items)) == "accepted"
        assert (await two.exchange(second, 1, ended=ends(*again.items))).settled
        mine = left(second.job_id, *c.items, *again.items)
        assert await two.report(second, files=mine) == "accepted"
        row = await task.settled()
        assert [(s.items, s.finished, s.open) for s in row.steps] == [(4, 4, 0), (4, 0, 4)]
        (merge,) = await two.acquire(1)
        urls = [file["url"] for file in msgspec.json.decode(merge.spec)["inputs"]]
        assert sorted(urls) == sorted(file.url for file in mine)


async def test_what_a_job_still_has_when_it_finishes_is_leased_again(tmp_path):
    """A pilot may have lost the answer that gave it items, or say that it has finished early."""
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(4, 2, payloads={"outputs": ["o-{index}"]}))
        (one, first), (two, second) = await task.consumers(2)
        a = await one.exchange(first, 2)
        c = await two.exchange(second, 2)
        await one.exchange(first, 0, ended=ends(a.items[0]))
        assert await one.report(first, files=left(first.job_id, a.items[0])) == "accepted"
        row = (await task.settled()).steps[0]
        assert (row.finished, row.open, row.waiting) == (1, 2, 1)
        again = await two.exchange(second, 2, ended=ends(*c.items))
        assert [(item.index, item.attempt) for item in again.items] == [(1, 2)]
        assert (await two.exchange(second, 1, ended=ends(*again.items))).settled
        assert (
            await two.report(second, files=left(second.job_id, *c.items, *again.items))
            == "accepted"
        )
        row = await task.settled()
        assert (row.state, row.steps[0].finished) == (TaskState.FINISHED, 4)


async def test_a_job_takes_no_more_items_than_its_step_says(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(5, {"consumers": 1, "items": 2}))
        done = []
        while (row := await task.settled()).state is TaskState.RUNNING:
            ((one, first),) = await task.consumers(1)
            a = await one.exchange(first, 10)
            done.append([item.index for item in a.items])
            assert (await one.exchange(first, 1, ended=ends(*a.items))).settled
            await one.report(first)
        assert done == [[0, 1], [2, 3], [4]]
        assert row.steps[0].jobs == 3


async def test_a_step_whose_jobs_only_fail_ends_its_task(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(5, 1))
        for _ in range(3):
            ((one, first),) = await task.consumers(1)
            await one.report(first, finished=False, code=1305)
            row = await task.settled()
        assert (row.state, row.reason) == ("failed", "step sim: 3 jobs in a row have failed")
        row = await task.steer(Verb.RETRY)
        assert (row.state, row.steps[0].open_jobs) == ("running", 1)


async def test_a_paused_task_leases_nothing_and_a_finished_one_begins_no_item(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(9, 1))
        ((one, first),) = await task.consumers(1)
        a = await one.exchange(first, 2)
        await task.steer(Verb.PAUSE)
        got = await one.exchange(first, 2, ended=ends(*a.items))
        assert (got.items, got.settled) == ((), True)
        await one.report(first)
        assert (await task.settled()).steps[0].open_jobs == 0
        row = await task.steer(Verb.RESUME)
        assert row.steps[0].open_jobs == 1
        ((two, second),) = await task.consumers(1)
        a = await two.exchange(second, 2)
        row = await task.steer(Verb.FINISH)
        assert (row.steps[0].items, row.steps[0].open) == (4, 2)
        assert (await two.exchange(second, 1, ended=ends(*a.items))).settled
        await two.report(second)
        row = await task.settled()
        assert (row.state, row.steps[0].finished) == (TaskState.FINISHED, 4)


async def test_earlier_pilots_get_no_such_job_and_users_submit_none(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(5, 1))
        worker = await b.worker()
        assert not await worker.acquire(1, shared_items=False)
        (one,) = await worker.acquire(1)
        spec = job(payloads=Payloads(list="1.0", count=5, shared=True))
        with pytest.raises(Rejected, match="only jobs that a task makes"):
            await b.submit(spec)
        await worker.report(one, finished=False, code=1305)
        ask = m.Retry(request_id=new_id(), job_ids=(one.job_id,))
        with pytest.raises(Rejected, match="is of task 1"):
            await b.service.intake.retry(ask, ALICE)


async def test_a_task_that_is_forgotten_leaves_no_items(tmp_path):
    async with bench(tmp_path) as b:
        task = Pulled(b)
        await task.submit(pull(5, 1))
        ((one, first),) = await task.consumers(1)
        await one.exchange(first, 2)
        await task.tasks.cancel_task(m.CancelTask(task_id=task.id), ALICE)
        await task.settled()
        write = b.service.store.write
        while await write(lambda tx: retention.tidy(tx, before=2e12)):
            pass
        while await write(lambda tx: item_lists.trim(tx, now=2e12)):
            pass
    with closing(sqlite3.connect(tmp_path / "queue.db")) as store:
        for table in ("cluster", "item", "lessee", "item_list", "item_slice", "unit"):
            assert store.execute(f"select count(*) from {table}").fetchone() == (0,), table  # noqa: S608


BAD = [
    ({"by": 2}, "by"),
    ({"job": {"command": "x", "queue": "q"}}, "job.payloads"),
    ({"job": {"command": "x {item}", "payloads": {"arguments": ["{item}"]}}}, "job.command"),
    ({"job": {"command": "x", "outputs": ["a"], "payloads": {"cores": 1}}}, "job.outputs"),
    ({"job": {"command": "x", "payloads": {"outputs": ["a"]}}}, "job.payloads.outputs[0]"),
    ({"job": {"command": "x", "payloads": {"cores": 2}}}, "job.payloads.cores"),
    ({"job": {"payloads": {"arguments": ["{item}"]}}}, "job.command"),
    ({"pull": 0}, "pull"),
    ({"pull": {"consumers": 1, "itmes": 3}}, "pull.itmes"),
    ({"pull": None}, "job.payloads"),
]


@pytest.mark.parametrize(("change", "field"), BAD)
def test_what_is_no_such_step_is_told_with_its_field(change: dict, field: str) -> None:
    with pytest.raises(AilurusError) as fault:
        task_from({"task": "t", "steps": [pull(5, 2) | change]})
    assert fault.value.field == f"steps[0].{field}"
    assert fault.value.remedy


def test_a_job_of_earlier_versions_shares_nothing() -> None:
    spec = msgspec.json.decode(b'{"name":"a","payloads":{"list":"l","count":1}}', type=JobSpec)
    assert spec.payloads is not None
    assert not spec.payloads.shared
