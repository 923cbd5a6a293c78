"""What a task does, step by step, as its user sees it."""

from __future__ import annotations

import pytest
from msgspec import structs

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.protocol.task import TaskState, Verb
from ailurus.protocol.task_file import task_from
from dispatcher.catalogue.settings import CatalogueSettings
from dispatcher.refusal import Rejected
from dispatcher.rules import retention as old_jobs
from dispatcher.service import tasks as service
from dispatcher.tasks import intake, records, retention
from tests.dispatcher.helpers import ALICE, bench, new_id


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    """The test itself brings tasks forward."""
    monkeypatch.setattr(service.Tasks, "start", lambda self: None)


def step(name: str, over: dict, command: str = "true", **fields: object) -> dict:
    job = {"command": command, "queue": "q", "outputs": ["out"], **fields.pop("job", {})}
    return {"name": name, "over": over, "job": job, **fields}


class Tasks:
    """Tasks of Alice, and a worker that does what is asked."""

    def __init__(self, b) -> None:
        self.b, self.tasks, self.worker = b, b.service.tasks, None

    async def submit(self, *steps: dict) -> int:
        ask = m.SubmitTask(request_id=new_id(), task=task_from({"task": "t", "steps": steps}))
        return (await self.tasks.submit_task(ask, ALICE)).task_id

    async def row(self, task_id: int) -> m.TaskRow:
        return (await self.tasks.task(api.TaskQuery(task_id=task_id), ALICE)).row

    async def steer(self, task_id: int, verb: Verb) -> m.TaskRow:
        return await self.tasks.steer_task(m.SteerTask(task_id=task_id, verb=verb), ALICE)

    async def settled(self, task_id: int) -> m.TaskRow:
        """How it stands once the loop has done all that it can."""
        while (await self.tasks.advance(task_id)).more:
            pass
        return await self.row(task_id)

    async def work(self, task_id: int, *, bad: str = "\0") -> list[str]:
        """Run all jobs that are ready, of which those with `bad` in their command fail. The
        commands."""
        await self.settled(task_id)
        self.worker = self.worker or await self.b.worker()
        commands = []
        while got := await self.worker.acquire(100):
            for one in got:
                detail = await self.b.service.users.show(None, ALICE, job_id=one.job_id)
                commands.append(detail.spec.command)
                url = f"file:///store/{one.job_id}.out"
                file = m.DoneFile(name="out", url=url, size=1, adler32="0" * 8)
                if bad in detail.spec.command:
                    await self.worker.report(one, finished=False, code=1305)
                else:
                    await self.worker.report(one, files=(file,))
        await self.settled(task_id)
        return commands

    async def jobs(self, state: JobState) -> int:
        page = await self.b.service.users.jobs(api.JobsQuery(state=state, limit=1000), ALICE)
        return len(page.jobs)


NUMBERS = {"range": {"from": 1, "to": 5}}


async def test_files_of_one_step_are_the_items_of_the_next(b):
    t = Tasks(b)
    gen = step("gen", NUMBERS, "gen {items}", by=2)
    merge = step(
        "merge", {"outputs": "gen"}, "merge {items}", by="all", job={"inputs": ["{items}"]}
    )
    task = await t.submit(gen, merge)
    assert await t.work(task) == ["gen 1 2", "gen 3 4", "gen 5"]
    assert await t.work(task) == ["merge 1.out 2.out 3.out"]
    row = await t.row(task)
    assert row.state is TaskState.FINISHED
    assert [one.finished for one in row.steps] == [5, 3]


async def test_a_gate_opens_at_its_share(b):
    t = Tasks(b)
    first = step("a", {"list": ["x", "y", "bad"]}, "a {item}", failed={"goal": "60%"})
    task = await t.submit(first, step("b", NUMBERS, "b", gate={"after": "a 2"}))
    row = await t.settled(task)
    assert row.steps[1].sentence == "waits for 2 of step a: 0 of 3 items have finished"
    assert await t.work(task, bad="bad") == ["a x", "a y", "a bad"]
    assert await t.work(task) == ["b"] * 5
    assert (await t.row(task)).state is TaskState.FINISHED


async def test_a_step_that_misses_its_goal_fails_the_task_and_a_retry_tries_only_what_failed(b):
    t = Tasks(b)
    merge = step("m", {"outputs": "a"}, "merge {items}", by="all", job={"inputs": ["{items}"]})
    task = await t.submit(step("a", {"list": ["x", "bad"]}, "a {item}"), merge)
    await t.work(task, bad="bad")
    row = await t.row(task)
    assert (row.state, row.reason) == (TaskState.FAILED, "step a: 1 of 2 items have failed")
    assert row.steps[1].sentence == "step a has missed its goal"
    await t.steer(task, Verb.RETRY)
    assert await t.work(task) == ["a bad"]
    assert await t.work(task) == ["merge 1.out 3.out"]
    assert (await t.row(task)).state is TaskState.FINISHED
    with pytest.raises(Rejected, match="nothing of task 1 has failed"):
        await t.steer(task, Verb.RETRY)


async def test_an_item_is_tried_in_so_many_jobs(b):
    t = Tasks(b)
    task = await t.submit(step("a", {"list": ["bad"]}, "a {item}", failed={"attempts": 3}))
    tried = []
    while (await t.row(task)).state is TaskState.RUNNING:
        tried += await t.work(task, bad="bad")
    assert tried == ["a bad"] * 3


async def test_too_many_failures_end_a_task_at_once(b):
    t = Tasks(b)
    over = {"range": {"from": 1, "to": 300}}
    task = await t.submit(step("a", over, failed={"abort": 2}), step("b", NUMBERS))
    await t.settled(task)
    worker = await b.worker()
    for _ in range(2):
        (one,) = await worker.acquire()
        await worker.report(one, finished=False, code=1305)
    row = await t.settled(task)
    assert (row.state, row.reason) == (TaskState.FAILED, "step a: 2 of 300 items have failed")
    assert [one.open for one in row.steps] == [0, 0]
    assert not await worker.acquire()


async def test_a_task_that_is_cancelled_leaves_no_job(b):
    t = Tasks(b)
    task = await t.submit(step("a", {"range": {"from": 1, "to": 1000}}, by=4))
    await t.settled(task)
    worker = await b.worker()
    held = await worker.acquire(3)
    await t.tasks.cancel_task(m.CancelTask(task_id=task), ALICE)
    row = await t.settled(task)
    assert row.state is TaskState.CANCELLED
    assert (row.steps[0].open, await t.jobs(JobState.CANCELLED)) == (0, 250)
    assert [one.action for one in (await worker.beat(*held)).commands] == [m.Action.KILL] * 3
    await t.steer(task, Verb.RETRY)
    assert (await t.settled(task)).steps[0].open == 1000


async def test_a_paused_task_makes_no_jobs_and_hears_of_those_that_it_has(b):
    t = Tasks(b)
    task = await t.submit(step("a", NUMBERS), step("b", {"outputs": "a"}))
    await t.settled(task)
    await t.steer(task, Verb.PAUSE)
    assert len(await t.work(task)) == 5
    row = await t.row(task)
    assert [(one.finished, one.jobs) for one in row.steps] == [(5, 5), (0, 0)]
    await t.steer(task, Verb.RESUME)
    assert len(await t.work(task)) == 5
    assert (await t.row(task)).state is TaskState.FINISHED


async def test_a_task_that_is_finished_early_merges_what_there_is(b, monkeypatch):
    monkeypatch.setattr("dispatcher.tasks.standing.MOST_OPEN", 3)
    t = Tasks(b)
    merge = step("m", {"outputs": "a"}, "merge {items}", by="all", job={"inputs": ["{items}"]})
    task = await t.submit(step("a", NUMBERS, "a {item}"), merge)
    assert (await t.settled(task)).steps[0].open_jobs == 3
    await t.steer(task, Verb.FINISH)
    assert await t.work(task) == ["a 1", "a 2", "a 3"]
    assert await t.work(task) == ["merge 1.out 2.out 3.out"]
    assert (await t.row(task)).state is TaskState.FINISHED


async def test_what_waits_at_a_gate_is_done_with_what_a_task_has_that_is_finished_early(
    b, monkeypatch
):
    monkeypatch.setattr("dispatcher.tasks.standing.MOST_OPEN", 3)
    t = Tasks(b)
    compare = step("b", {"list": ["ks", "chi2"]}, "b {item}", gate={"after": "a 90%"})
    task = await t.submit(step("a", NUMBERS, "a {item}"), compare)
    await t.settled(task)
    await t.steer(task, Verb.FINISH)
    assert await t.work(task) == ["a 1", "a 2", "a 3"]
    assert await t.work(task) == ["b ks", "b chi2"]
    assert (await t.row(task)).state is TaskState.FINISHED


async def test_a_list_may_be_long(b):
    t = Tasks(b)
    values = [f"v{nr}" for nr in range(12_345)]
    task = await t.submit(step("a", {"list": values}, "a {items}", by=100))
    commands = await t.work(task)
    assert [word for one in commands for word in one.split()[1:]] == values


async def test_an_item_of_which_no_job_can_be_made_fails_alone(b):
    t = Tasks(b)
    values = [{"name": "a"}, {"other": "b"}, {"name": "c"}]
    task = await t.submit(step("a", {"list": values}, "a {item.name}", failed={"goal": 2}))
    assert await t.work(task) == ["a a", "a c"]
    row = await t.row(task)
    assert row.state is TaskState.FINISHED
    assert row.reason == "steps[0].job.command: an item has no `name`"
    assert row.steps[0].sentence.endswith(
        "no job could be made of item 2: steps[0].job.command: an item has no `name`"
    )


async def test_files_of_a_job_have_names_of_their_own_in_the_next_step(b):
    t = Tasks(b)
    gen = step("gen", {"list": [1]}, job={"outputs": ["a/b", "a.b"]})
    merge = step("m", {"outputs": "gen"}, "m {items}", by="all", job={"inputs": ["{items}"]})
    task = await t.submit(gen, merge)
    await t.settled(task)
    worker = await b.worker()
    (one,) = await worker.acquire()
    files = [
        m.DoneFile(name=name, url=f"file:///{nr}", size=1, adler32="0" * 8)
        for nr, name in enumerate(("a/b", "a.b"))
    ]
    await worker.report(one, files=files)
    assert await t.work(task) == ["m 1.a.b 1.a.b-2"]


async def test_a_request_that_comes_again_gives_the_same_task(b):
    one = m.SubmitTask(request_id="r", task=task_from({"task": "t", "steps": [step("a", NUMBERS)]}))
    other = m.SubmitTask(
        request_id="r", task=task_from({"task": "u", "steps": [step("a", NUMBERS)]})
    )
    first = await b.service.tasks.submit_task(one, ALICE)
    again = await b.service.tasks.submit_task(one, ALICE)
    assert (again.task_id, again.repeated) == (first.task_id, True)
    with pytest.raises(Rejected, match="sent before with other contents"):
        await b.service.tasks.submit_task(other, ALICE)


async def test_a_credential_that_is_not_there_is_named_in_its_step(b):
    t = Tasks(b)
    with pytest.raises(Rejected, match="no credential 'mine'") as refused:
        await t.submit(step("a", NUMBERS, job={"credentials": ["mine"]}))
    assert refused.value.field == "task.steps[0].job.credentials[0]"


async def test_a_job_of_a_task_is_tried_again_by_its_task_alone(b):
    t = Tasks(b)
    task = await t.submit(step("a", {"list": ["bad"]}, "a {item}"))
    await t.work(task, bad="bad")
    with pytest.raises(Rejected, match="job 1 is of task 1") as refused:
        await b.service.intake.retry(m.Retry(job_ids=(1,)), ALICE)
    assert refused.value.remedy.endswith("dispatcher task retry 1")
    while await b.service.store.write(lambda tx: old_jobs.tidy(tx, before=4e9)):
        pass
    with pytest.raises(Rejected, match="job 1 is of task 1"):
        await b.service.intake.retry(m.Retry(job_ids=(1,)), ALICE)


async def test_a_task_that_ended_long_ago_is_forgotten_and_others_stay(b):
    t = Tasks(b)
    old = await t.submit(step("a", {"list": ["x"] * 1500}, by=1000))
    await t.work(old)
    open_ = await t.submit(step("a", NUMBERS))
    while await b.service.store.write(lambda tx: retention.tidy(tx, before=4e9)):
        pass
    assert [row.task_id for row in (await t.tasks.tasks(api.TasksQuery(), ALICE)).tasks] == [open_]
    for table in ("unit", "task_slice", "step"):
        query = f"{table}.trim" if table != "step" else "step.all"
        values = {} if table == "step" else {"most": 1}
        found = await b.service.store.write(
            lambda tx, query=query, values=values: tx.all(query, task_id=old, **values)
        )
        assert found == []


async def test_who_did_what_to_a_task_is_written_down(b):
    t = Tasks(b)
    task = await t.submit(step("a", {"list": ["bad", "x"]}, "a {item}"))
    await t.steer(task, Verb.PAUSE)
    await t.steer(task, Verb.RESUME)
    await t.work(task, bad="bad")
    await t.steer(task, Verb.RETRY)
    await t.tasks.cancel_task(m.CancelTask(task_id=task), ALICE)
    told = [one.data for one in await b.told() if one.kind == "task"]
    assert [(one["state"], one.get("verb"), one.get("by")) for one in told] == [
        ("running", None, None),
        ("paused", "pause", "alice"),
        ("running", "resume", "alice"),
        ("failed", None, None),
        ("running", "retry", "alice"),
        ("cancelled", "cancel", "alice"),
    ]


async def test_a_retry_makes_jobs_behind_an_item_of_which_none_can_be_made(b, monkeypatch):
    monkeypatch.setattr("dispatcher.tasks.advance.JOBS", 2)
    t = Tasks(b)
    values = [{"name": "a"}, {"name": "b"}, {"other": "c"}, {"name": "bad"}]
    task = await t.submit(step("a", {"list": values}, "a {item.name}"))
    assert await t.work(task, bad="bad") == ["a a", "a b", "a bad"]
    await t.steer(task, Verb.RETRY)
    assert await t.work(task) == ["a bad"]
    assert [one.finished for one in (await t.row(task)).steps] == [3]


async def test_no_item_leads_outputs_into_a_scope_that_is_not_its_users(place):
    scopes = CatalogueSettings(kind="rucio", scopes={"user.{user}": ("*",), "mc": ("bob",)})
    async with bench(place, catalogue=scopes) as b:
        t = Tasks(b)
        outputs = [{"name": "out", "scope": "{item}"}]
        over = {"list": ["user.alice", "mc"]}
        task = await t.submit(step("a", over, "a {item}", job={"outputs": outputs}))
        assert await t.work(task) == ["a user.alice"]
        row = await t.row(task)
        assert row.reason == (
            "step a: 1 of 2 items have failed; "
            "steps[0].job.outputs[0].scope: alice may not write to scope 'mc'"
        )


async def test_a_task_that_is_finished_early_is_not_aborted_by_what_had_failed(b, monkeypatch):
    monkeypatch.setattr("dispatcher.tasks.standing.MOST_OPEN", 3)
    t = Tasks(b)
    failed = {"abort": "50%"}
    task = await t.submit(step("a", NUMBERS, "a {item}", failed=failed))
    await t.settled(task)
    worker = await b.worker()
    held = await worker.acquire(3)
    await t.steer(task, Verb.PAUSE)
    for one in held[:2]:
        await worker.report(one, finished=False, code=1305)
    await t.settled(task)
    await t.steer(task, Verb.FINISH)
    assert (await t.settled(task)).state is TaskState.RUNNING
    await worker.report(held[2], files=())
    row = await t.settled(task)
    assert (row.state, row.steps[0].items) == (TaskState.FINISHED, 3)


async def test_payloads_in_a_job_of_a_task_are_refused_by_the_dispatcher_too(b):
    task = task_from({"task": "t", "steps": [step("a", NUMBERS)]})
    first = structs.replace(
        task.steps[0], job={**task.steps[0].job, "payloads": {"list": "l", "count": 3}}
    )
    ask = m.SubmitTask(request_id="r", task=structs.replace(task, steps=(first,)))
    with pytest.raises(Rejected) as refused:
        await b.service.tasks.submit_task(ask, ALICE)
    assert refused.value.field == "task.steps[0].job.payloads"


async def test_a_cancelled_task_counts_an_end_that_came_while_it_looked(b, monkeypatch):
    t = Tasks(b)
    task = await t.submit(step("a", {"list": ["x"]}))
    await t.settled(task)
    await t.tasks.cancel_task(m.CancelTask(task_id=task), ALICE)
    await t.tasks.advance(task)
    # As if the end were committed just after it was first looked for.
    ended, looks = records.ended, []

    def late(tx, task_id, most):
        looks.append(task_id)
        return ended(tx, task_id, most) if len(looks) > 1 else []

    monkeypatch.setattr(records, "ended", late)
    row = await t.settled(task)
    assert (row.steps[0].open, row.steps[0].failed) == (0, 1)


async def test_an_end_that_an_earlier_version_did_not_note_is_found_by_a_cancellation(b):
    t = Tasks(b)
    task = await t.submit(step("a", {"list": ["x"]}))
    await t.settled(task)
    worker = await b.worker()
    (one,) = await worker.acquire()
    await worker.report(one, finished=False, code=1305)
    unit = {"task_id": task, "step": 0, "first": 0, "tries": 1, "job_id": 1, "reason": ""}
    await b.service.store.write(lambda tx: tx.run("unit.put", **unit, state="open", loss=None))
    await t.tasks.cancel_task(m.CancelTask(task_id=task), ALICE)
    for _ in range(4):
        await t.tasks.advance(task)
    assert not (await t.tasks.advance(task)).more
    assert (await t.row(task)).steps[0].failed == 1


async def test_what_a_retry_adds_to_a_merge_that_was_made_is_merged_by_itself(b):
    t = Tasks(b)
    first = step("a", {"list": ["x", "bad"]}, "a {item}", failed={"goal": "50%"})
    merge = step("m", {"outputs": "a"}, "merge {items}", by="all", job={"inputs": ["{items}"]})
    task = await t.submit(first, merge)
    await t.work(task, bad="bad")
    assert await t.work(task) == ["merge 1.out"]
    assert (await t.row(task)).state is TaskState.FINISHED
    await t.steer(task, Verb.RETRY)
    assert await t.work(task) == ["a bad"]
    assert await t.work(task) == ["merge 4.out"]
    assert (await t.row(task)).state is TaskState.FINISHED


async def test_a_task_of_which_a_part_is_forgotten_is_shown_and_steered_by_nobody(b, monkeypatch):
    monkeypatch.setattr(retention, "UNITS", 1)
    t = Tasks(b)
    task = await t.submit(step("a", {"list": ["bad", "x"]}, "a {item}"))
    await t.work(task, bad="bad")
    assert await b.service.store.write(lambda tx: retention.tidy(tx, before=4e9))
    with pytest.raises(Rejected, match="there is no task 1"):
        await t.steer(task, Verb.RETRY)
    assert not (await t.tasks.tasks(api.TasksQuery(), ALICE)).tasks


async def test_a_submission_that_goes_on_is_whole_although_some_of_it_was_forgotten(b):
    spec = task_from({"task": "t", "steps": [step("a", {"list": ["x", "y"]}, "a {item}")]})
    who = {"owner": ALICE.subject, "group": "", "request_id": "r"}
    digest = intake.digest_of(spec)

    def begun(tx):
        task_id = intake.begin(tx, spec, **who, digest=digest, now=1.0)
        for rows in intake.parts(spec, task_id):
            tx.many("task_slice.add", rows)

    await b.service.store.write(begun)
    assert await b.service.store.write(lambda tx: retention.tidy(tx, before=2.0))
    t = Tasks(b)
    again = m.SubmitTask(request_id="r", task=spec)
    task = (await t.tasks.submit_task(again, ALICE)).task_id
    assert await t.work(task) == ["a x", "a y"]
    assert (await t.row(task)).state is TaskState.FINISHED
