"""A job changes state in one place, and only as the table has it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import dispatcher
from ailurus.protocol import messages as m
from ailurus.protocol import states
from ailurus.protocol.states import (
    ATTEMPT_TABLE,
    FINAL,
    MAY_COME_BACK,
    TABLE,
    WITH_WORKER,
    AttemptState,
    Change,
    JobState,
    Refusal,
)
from dispatcher.events import StateChanged, Submitted
from dispatcher.ports import Tx
from dispatcher.rules import attempts, records, transitions
from dispatcher.store.queries import postgres_statements, statements
from tests.dispatcher.helpers import job, run

S = JobState
SOURCES = Path(dispatcher.__file__).parent


def writers() -> dict[str, str]:
    """The part before `where` of the statements that write the state of a job, on either store."""
    writes = re.compile(
        r"insert into job \([^)]*\bstate\b|update job (\w+ )?set\b.*?\bstate = ", re.DOTALL
    )
    found = {}
    for name, one in [*statements().items(), *postgres_statements().items()]:
        changes = one.text.partition(" where ")[0]
        if writes.search(changes):
            found[name] = found.get(name, "") + changes
    return found


def test_only_transitions_run_a_statement_that_writes_the_state_of_a_job():
    names = {"job.add", "job.open_range", "job.activate", "job.set_state", "job.end"}
    assert set(writers()) == names
    found = {
        (file.relative_to(SOURCES).as_posix(), node.value)
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found == {("rules/transitions.py", name) for name in names}


def test_only_attempts_run_a_statement_that_writes_the_state_of_an_attempt():
    writes = re.compile(r"(insert into|update) attempt\b.*\bstate\b", re.DOTALL)
    names = {
        name
        for name, one in statements().items()
        if writes.search(one.text.partition(" where ")[0])
    }
    assert names == {"attempt.add", "attempt.mark", "attempt.end", "attempt.resume"}
    found = {
        (file.relative_to(SOURCES).as_posix(), node.value)
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    } - {("store/postgres_tx.py", "attempt.add"), ("store/postgres_tx.py", "attempt.end")}
    assert found == {("rules/attempts.py", name) for name in names}


def test_an_end_of_an_attempt_is_written_from_the_states_that_the_table_starts_from():
    assert {state for step in ATTEMPT_TABLE.values() for state in step.start} == MAY_COME_BACK
    end = statements()["attempt.end"].text
    assert f"(ended is null or state = '{AttemptState.LOST}')" in end


def test_no_statement_knows_which_state_follows_another():
    """What a statement writes is a parameter; but for the first state, which follows none."""
    for name, changes in writers().items():
        named = {state for state in S if f"'{state}'" in changes}
        if name == "job.add":
            assert named == {states.FIRST}
        else:
            assert not re.search(r"(?<![:.])\bstate = '", changes), name
            assert "then '" not in changes, name


class Recorder:
    """Stands for a transaction: what is written is kept, nothing is found."""

    def __init__(self) -> None:
        self.written: list[tuple[str, object]] = []
        self.counted: dict[str, int] = {}

    def run(self, query: str, **values: object) -> None:
        self.written.append((query, values["state"]))

    def one(self, query: str, **values: object) -> tuple[int, ...]:
        return (1,)

    def count(self, queue: str, shape_id: int, state: str, by: int, owner: str = "") -> None:
        self.counted[state] = self.counted.get(state, 0) + by

    def tell(self, event: StateChanged | Submitted, **place: object) -> None:
        self.written.append((event.kind, event.state))

    def failed(self, kind: int, example: str, at: float) -> None:
        pass


def record(state: JobState) -> records.JobRecord:
    return records.JobRecord(
        state=state, attempt_nr=1, max_attempts=1, retry_all=False, queue="q", shape_id=1,
        worker_id=7, owner="alice", name="job", parents_left=0, items=0, task_id=0,
        tally=None, job_id=5,
    )  # fmt: skip


def report(*, finished: bool) -> m.Report:
    return m.Report(job_id=5, attempt_nr=1, report_key="-", finished=finished)


CHANGES = {
    Change.LEASE: lambda tx, job: transitions.lease(tx, job, 7, alone=False, now=1.0),
    Change.START: lambda tx, job: transitions.advance(tx, job, S.STARTING, 1, now=1.0),
    Change.RUN: lambda tx, job: transitions.advance(tx, job, S.RUNNING, 1, now=1.0),
    Change.HOLD: lambda tx, job: transitions.advance(tx, job, S.HOLDING, 1, now=1.0),
    Change.RETRY: lambda tx, job: transitions.conclude(
        tx, job, report(finished=False), blameless=True, now=1.0
    ),
    Change.RELEASE: lambda tx, job: transitions.release(tx, job, 1, now=1.0),
    Change.RESUME: lambda tx, job: transitions.resume(tx, job, 1, 7, alone=False, now=1.0),
    Change.FINISH: lambda tx, job: transitions.conclude(
        tx, job, report(finished=True), blameless=False, now=1.0
    ),
    Change.FAIL: lambda tx, job: transitions.conclude(
        tx, job, report(finished=False), blameless=False, now=1.0
    ),
    Change.ABANDON: lambda tx, job: transitions.abandon(tx, job, code=1, diagnosis="", now=1.0),
    Change.SET_ASIDE: lambda tx, job: transitions.set_aside(tx, job, now=1.0),
    Change.CANCEL: lambda tx, job: transitions.cancel(tx, job, "alice", now=1.0),
    Change.ACTIVATE: lambda tx, job: transitions.activate(
        tx, [records.ChildRecord(5, 0, job.state, "q", 1, 1, "alice")], now=1.0
    ),
}


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_change_writes_what_the_table_has_or_nothing(change, state):
    tx = Recorder()
    after = CHANGES[change](tx, record(state))
    step = TABLE[change]
    if change is Change.ACTIVATE and state is states.FIRST:
        return  # is opened with all of its submission, see below
    if state in step.start:
        assert [one for _, one in tx.written] == [step.to] * 2  # the row and the event
        assert tx.counted == {state: -1, step.to: +1}
    else:
        assert tx.written == []
        assert tx.counted == {}
        assert after is None or isinstance(after, Refusal) or after.state is state


def test_each_change_is_tried():
    assert set(Change) - set(CHANGES) == {Change.BLOCK}  # a submission's


async def test_a_submission_is_opened_as_the_table_has_it(b):
    parent, child = await b.submit(job("parent"), job("child", depends_on=("parent",)))
    assert await b.state(parent) is TABLE[Change.ACTIVATE].to
    assert await b.state(child) is TABLE[Change.BLOCK].to


def test_a_job_that_has_ended_is_left_as_it_is(tmp_path):
    async def test(b):
        (job_id,) = await b.submit(job())
        worker = await b.worker()
        (got,) = await worker.acquire()
        await worker.report(got)
        attempt = attempts.WorkerAttempt(job_id, got.attempt_nr, worker.id, S.RUNNING)

        def change(tx: Tx) -> list[object]:
            return [
                attempts.mark(tx, attempt, now=1.0),
                attempts.resume(tx, attempt, now=1.0),
                attempts.cancel(tx, job_id=job_id, by="alice", now=1.0),
                attempts.expire(tx, attempt, reason="", code=1, now=1.0),
                attempts.fail_unfit(tx, job_id=job_id, why="", now=1.0),
                records.get_job(tx, job_id).state,
            ]

        *_, state = await b.service.store.write(change)
        assert state is S.FINISHED

    run(test, tmp_path)


def test_every_state_with_a_worker_can_be_left_by_its_attempts_end():
    for state in WITH_WORKER:
        assert {
            step.to
            for change, step in TABLE.items()
            if state in step.start and change in (Change.RETRY, Change.FINISH, Change.FAIL)
        } == {S.ACTIVATED, S.FINISHED, S.FAILED}
    assert not any(step.start & FINAL for step in TABLE.values())
