"""Optuna says the points of a search, in a process of the dispatcher's own; whatever that does."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import msgspec
import pytest

from ailurus.protocol.task import TaskState
from dispatcher.refusal import Rejected
from dispatcher.service import planner_process
from dispatcher.service.planner_process import PlannerFailed
from dispatcher.tasks import search as rules
from tests.dispatcher.helpers import bench
from tests.dispatcher.tasks.searching import Searches, optuna


@pytest.fixture(autouse=True)
def _by_hand(by_hand):
    """Nothing is done but what a test asks for."""


async def test_a_process_plans_ahead(b, fake):
    t = Searches(b)
    task = await t.submit(optuna(ahead=2))
    await t.turn(task)
    worker = await b.worker()
    got = await worker.acquire(100)
    assert len(got) == 4
    for one in got[:2]:
        await worker.report(one, result='{"loss": 1}')
    # Two are not evaluated yet: it is time.
    await t.turn(task)
    assert [one[1] for one in fake[1]["points"]] == [1, 1, None, None]
    assert (await t.row(task)).steps[0].items == 8
    await t.turn(task)
    assert len(fake) == 2


async def test_a_planner_knows_which_points_have_failed(b, fake):
    t = Searches(b)
    t.loss = lambda point: "" if point["x"] == 2 else '{"loss": 1}'
    task = await t.submit(optuna())
    await t.turn(task)
    await t.work(task)
    await t.turn(task)
    assert fake[1]["failed"] == [2]


async def test_an_answer_that_comes_twice_counts_once(b, fake):
    t = Searches(b)
    task = await t.submit(optuna())
    await t.settled(task)
    asked = await b.service.store.read(lambda tx: rules.question(tx, task, 0))
    answer = b'[{"x": 1}, {"x": 2}]'
    for taken in (True, False):
        tell = partial(rules.tell, asked=asked, answer=answer)
        assert await b.service.store.write(tell) is taken
    assert (await t.row(task)).steps[0].items == 2


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_a_process_that_fails_thrice_fails_its_task(b, monkeypatch):
    async def ask(question, wanted, seed, within_s=0.0):
        raise PlannerFailed("it has not answered for 60 s")

    monkeypatch.setattr(planner_process, "ask_optuna", ask)
    t = Searches(b)
    task = await t.submit(optuna())
    await t.settled(task)
    pauses = [await t.tasks.plans.turn(task, 0) for _ in range(4)]
    assert pauses == [2.0, 4.0, 6.0, None]
    row = await t.settled(task)
    assert row.reason == ("step s: the planner has failed 3 times: it has not answered for 60 s")


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_without_optuna_a_task_is_refused(b, monkeypatch):
    monkeypatch.setattr(planner_process, "has_optuna", lambda: False)
    with pytest.raises(Rejected, match="has no Optuna"):
        await Searches(b).submit(optuna())


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_the_loop_asks_by_itself(place, fake, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(planner_process, "has_optuna", lambda: True)

    async def ask(question, wanted, seed, within_s=0.0):
        at = len(msgspec.json.decode(question)["points"])
        return msgspec.json.encode([{"x": at + one} for one in range(wanted)])

    monkeypatch.setattr(planner_process, "ask_optuna", ask)
    async with bench(place) as b:
        t = Searches(b)
        task = await t.submit(optuna(max=8))
        worker = await b.worker()
        for _ in range(8):
            (one,) = await worker.acquire(wait_s=5.0)
            await worker.report(one, result='{"loss": 1}')
        while (await t.row(task)).state is not TaskState.FINISHED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# --- the process itself ---


@pytest.fixture
def program(tmp_path, monkeypatch):
    def put(text: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\nimport os, sys, time, signal\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr(planner_process, "PYTHON", str(path))

    return put


SILENT = [
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)",
    "if os.fork(): time.sleep(0)\nelse: time.sleep(60)",
    "while True: sys.stderr.write('x' * 65536)",
]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("time.sleep(60)", "it has not answered for 1 s"),
        # Each of these takes the whole second, too.
        *(pytest.param(text, "has not answered", marks=pytest.mark.slow) for text in SILENT),
        ("while True: sys.stdout.write('x' * 65536)", "more than"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"a signal \(9\)"),
        ("sys.exit('no such method')", "exit code 1: no such method"),
    ],
)
async def test_a_process_is_bounded(program, text, why):
    program(text)
    with pytest.raises(PlannerFailed, match=why):
        await planner_process.ask_optuna(b"{}" * 500_000, 1, 0, within_s=1.0)


async def test_a_process_that_cannot_start_is_said_so(monkeypatch):
    monkeypatch.setattr(planner_process, "PYTHON", "/nowhere/python")
    with pytest.raises(PlannerFailed, match="cannot be started"):
        await planner_process.ask_optuna(b"{}", 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_optuna_itself_finds_the_least_loss(b):
    t = Searches(b)
    task = await t.submit(optuna(batch=8, max=24, first=[{"x": 9}]))
    while (await t.row(task)).state is TaskState.RUNNING:
        await t.turn(task)
        await t.work(task)
    row = await t.row(task)
    assert row.state is TaskState.FINISHED, row.reason
    assert row.steps[0].finished == 24
    assert row.steps[0].best.loss < 0.05


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_optuna_ends_where_a_space_has_no_more_points(b):
    space = {"x": {"method": "categorical", "dimension": {"categories": [1, 2, 3]}}}
    t = Searches(b)
    task = await t.submit(optuna(space=space))
    while (await t.row(task)).state is TaskState.RUNNING:
        await t.turn(task)
        await t.work(task)
    row = await t.row(task)
    assert (row.state, row.steps[0].items) == (TaskState.FINISHED, 3)
