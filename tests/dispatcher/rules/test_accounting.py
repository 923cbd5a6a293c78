"""What attempts took is summed up once, whatever happens to them: the sums are those of a plain
recount of all attempts, in each hour."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.accounting import UsageOutcome, UsageQuery
from ailurus.protocol.api import JobsQuery, NoQuery, Scope
from ailurus.protocol.errors import Code
from ailurus.protocol.faults import fault_of
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from dispatcher.rules import accounting, usage_records
from dispatcher.service import accounting as service
from tests.dispatcher import helpers
from tests.dispatcher.helpers import ALICE, BOB, Bench, bench, job

ADMIN = Caller(subject="boss", scopes=frozenset({Scope.ADMIN, Scope.READ, Scope.CANCEL}))
HOUR, DAY = 3600, 86_400
# In the middle of a day, so that nothing is rounded away.
BEGAN = 1_790_000_000.0
MEASURES = ("n", "wall_ms", "core_ms", "cpu_ms", "memory", "peak", "gpu", "gpu_ms")
FOREVER = 2**40
CODES = (0, int(Code.PAYLOAD_FAILED), int(Code.STAGE_IN_FAILED), int(Code.STAGE_OUT_FAILED), 99999)


class Run:
    """Jobs of two users at two sites, under everything that can end an attempt."""

    def __init__(self, b: Bench, seed: int) -> None:
        self.b, self.chance = b, random.Random(seed)
        self.at = BEGAN
        b.service.state.now = lambda: self.at
        self.had: list[tuple[object, m.RawAssignment]] = []
        self.steps = (
            self.submit, self.acquire, self.acquire, self.run, self.run, self.report, self.report,
            self.report, self.lose, self.resume, self.release, self.cancel, self.late,
        )  # fmt: skip

    async def step(self) -> None:
        self.at += self.chance.choice((0.25, 1.5, 600.0, 3600.0))
        await self.chance.choice(self.steps)()

    async def submit(self) -> None:
        spec = job(
            queue=self.chance.choice(("q", "")),
            cores=self.chance.choice((1, 8)),
            memory_mb=self.chance.choice((1000, 3000)),
            gpus=self.chance.choice((0, 0, 1)),
            max_attempts=4,
            # Then it waits in a lane, whose number stands where its shape's does.
            result=self.chance.choice(("", "r.json")),
            labels=self.chance.choice(({}, {"campaign": "mc"}, {"campaign": "data", "x": "1"})),
        )
        await self.b.submit(spec, caller=self.chance.choice((ALICE, BOB)))

    async def acquire(self) -> None:
        total = Room(cores=16, memory_mb=64_000, disk_mb=100_000, gpus=2)
        worker = await self.b.worker(site=self.chance.choice(("cern", "desy")), total=total)
        self.had += [(worker, one) for one in await worker.acquire(2, room=total)]

    async def run(self) -> None:
        for worker, one in self.some():
            update = m.Update(
                job_id=one.job_id, attempt_nr=one.attempt_nr, state=JobState.RUNNING, since=self.at
            )
            await self.b.service.heartbeats.beat(m.Beat(jobs=(update,), room=Room()), worker.caller)

    async def report(self) -> None:
        for worker, one in self.some():
            wall = self.chance.choice((0.0, 2.5, 100.0, 1e300))
            used = m.Usage(
                cpu_s=wall * 3 / 4, wall_s=wall, max_pss_kb=1024 * 700, gpu_s=self.chance.random()
            )
            finished = self.chance.random() < 0.5
            for _ in range(self.chance.choice((1, 2))):
                await worker.report(
                    one,
                    finished=finished,
                    transient=self.chance.random() < 0.5,
                    code=0 if finished else self.chance.choice(CODES),
                    usage=self.chance.choice((None, used)),
                )

    async def lose(self) -> None:
        if self.chance.random() < 0.4:
            await self.b.forward(FOREVER)

    async def resume(self) -> None:
        """Pilots that were taken for lost speak again."""
        await self.run()

    async def release(self) -> None:
        for worker, one in self.some():
            key = m.AttemptKey(job_id=one.job_id, attempt_nr=one.attempt_nr)
            await self.b.service.workers.release(m.Release(jobs=(key,)), worker.caller)

    async def cancel(self) -> None:
        if self.had and self.chance.random() < 0.5:
            ask = m.Cancel(job_ids=(self.chance.choice(self.had)[1].job_id,))
            await self.b.service.users.cancel(ask, ADMIN)

    async def late(self) -> None:
        if self.had:
            worker, one = self.had[0]
            await worker.report(one, usage=m.Usage(cpu_s=1.0, wall_s=2.0))

    def some(self) -> list[tuple[object, m.RawAssignment]]:
        return self.chance.sample(self.had[-6:], min(2, len(self.had[-6:])))


# --- the plain recount ----------------------------------------------------------------------------

TWICE = ("overtaken", "alreadydone", "badattemptnr")


def outcome(one: m.Attempt) -> str:
    if one.state == "failed":
        return str(fault_of(one.code))
    if one.state in TWICE:
        return "twice"
    return one.state


def taken(one: m.Attempt, spec) -> list[float]:
    used = one.usage or m.Usage()
    wall = used.wall_s or (one.ended - one.running if one.running is not None else 0.0)
    # A clock may be set back.
    longest = max(0.0, one.ended - one.leased)
    wall = 1000 * max(0.0, min(wall, longest))
    cpu, gpu = (1000 * min(s, 4096 * longest) for s in (used.cpu_s, used.gpu_s))
    peak = max(used.max_pss_kb, used.max_rss_kb) // 1024
    shape = (spec.cores, spec.memory_mb, 100 * spec.gpus)
    wall, cpu, gpu = round(wall), round(cpu), round(gpu)
    return [1, wall, wall * shape[0], cpu, wall * shape[1], wall * peak, wall * shape[2], gpu]


async def recounted(b: Bench) -> dict[tuple[str, ...], list[float]]:
    """The sums of all attempts of all jobs, one by one, by hour, label, user, queue, site, value
    and outcome."""
    found: dict[tuple[object, ...], Counter[str]] = {}
    page = await b.service.users.jobs(JobsQuery(limit=1000), ADMIN)
    for row in page.jobs:
        shown = await b.service.users.show(NoQuery(), ADMIN, job_id=row.job_id)
        for one in shown.attempts:
            if one.ended is None or one.state == "released":
                continue
            for label, value in (("", ""), *shown.spec.labels.items()):
                # All workers serve `q`: one of them had the job that named no queue.
                key = (
                    one.ended // HOUR * HOUR,
                    label,
                    row.user,
                    "q",
                    one.site,
                    value,
                    outcome(one),
                )
                sums = found.setdefault(key, Counter())
                for name, amount in zip(MEASURES, taken(one, shown.spec), strict=True):
                    sums[name] += amount
    return {key: [sums[name] for name in MEASURES] for key, sums in found.items()}


async def kept(b: Bench) -> dict[tuple[str, ...], list[float]]:
    """The same, as the store has it: each hour is asked for alone."""
    of = {"since": 0.0, "until": 1e12, "queue": "", "site": "", "owner": "", "any_value": 1}
    of |= {"value": "", "part": "", "span": "hour"}
    by = dict.fromkeys(("by_user", "by_queue", "by_site", "by_label"), 1)
    found = {}
    for label in ("", "campaign", "x"):

        def gather(tx, of=of | {"label": label}):
            hours = {one.at for one in usage_records.over_time(tx, **of)}
            return {
                at: usage_records.sums(tx, **of | {"since": at, "until": at + 1}, **by)
                for at in hours
            }

        for at, rows in (await b.service.store.read(gather)).items():
            for one in rows:
                key = (at, label, one.who, one.which, one.place, one.word, one.outcome)
                sums = [getattr(one, name) for name in MEASURES]
                if any(sums):
                    found[key] = sums
    return found


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
async def test_sums_are_those_of_a_plain_recount(b, seed):
    run = Run(b, seed)
    await b.submit(*[job(queue="q")] * 3)
    for nr in range(90):
        await run.step()
        if nr % 30 == 0:
            assert await kept(b) == await recounted(b)
    counted = await recounted(b)
    assert await kept(b) == counted
    assert len({key[-1] for key in counted}) > 3


async def test_an_attempt_that_comes_back_is_lost_no_more(b):
    run = Run(b, 0)
    await b.submit(job(labels={"campaign": "mc"}))
    await run.acquire()
    await run.run()
    run.at += 2 * HOUR
    await b.forward(FOREVER)
    assert {key[-1] for key in await kept(b)} == {"lost"}
    run.at += HOUR
    await run.run()
    assert await kept(b) == {}
    ((worker, one),) = run.had
    await worker.report(one)
    assert {key[-1] for key in await kept(b)} == {"finished"}


# --- kill -9 --------------------------------------------------------------------------------------


async def _for_ever(url: str, seed: int) -> None:
    # A process begins to count requests anew.
    helpers._numbers = itertools.count(seed * 10**6)
    async with bench(url) as b:
        run = Run(b, seed)
        run.at += 7200 * seed
        print("ready", flush=True)
        while True:
            await run.step()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_sums_are_exact_after_kills(place):
    for seed in range(2):
        code = (
            "from tests.dispatcher.rules import test_accounting as t; import asyncio;"
            f" asyncio.run(t._for_ever({place!r}, {seed}))"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3 + seed / 5)
            os.kill(process.pid, signal.SIGKILL)

    async def check() -> None:
        async with bench(place) as b:
            counted = await recounted(b)
            assert sum(sums[0] for sums in counted.values()) > 5
            assert await kept(b) == counted

    asyncio.run(check())


# --- what is asked for ----------------------------------------------------------------------------


async def usage(b: Bench, caller: Caller = ADMIN, **ask: object) -> m.UsageSums:
    return await b.service.accounting.usage(UsageQuery(**ask), caller)


async def two_users(b: Bench) -> Run:
    """Alice finished at one site, Bob failed by his own fault at another: an hour of two cores
    each."""
    run = Run(b, 0)
    for who, site, finished in ((ALICE, "cern", True), (BOB, "desy", False)):
        await b.submit(job(cores=2, labels={"campaign": who.subject}, max_attempts=1), caller=who)
        worker = await b.worker(site=site)
        (one,) = await worker.acquire()
        run.at += HOUR
        await worker.report(
            one,
            finished=finished,
            code=0 if finished else int(Code.PAYLOAD_FAILED),
            usage=m.Usage(wall_s=HOUR, cpu_s=HOUR),
        )
    return run


async def test_rows_are_by_what_is_asked_for(b):
    await two_users(b)
    by_site = await usage(b, by="site")
    assert [(row.key, row.core_s, row.cpu_s, row.wasted_core_s) for row in by_site.rows] == [
        ({"site": "cern"}, 2 * HOUR, HOUR, {}),
        ({"site": "desy"}, 2 * HOUR, HOUR, {"payload": 2 * HOUR}),
    ]
    both = await usage(b, by="user,site")
    assert [row.key for row in both.rows] == [
        {"user": "alice", "site": "cern"},
        {"user": "bob", "site": "desy"},
    ]
    labels = await usage(b, by="label:campaign")
    assert [row.key for row in labels.rows] == [{"label": "alice"}, {"label": "bob"}]
    (one,) = (await usage(b, by="user", label="campaign=bob")).rows
    assert one.key == {"user": "bob"}
    assert by_site.total.core_s == labels.total.core_s == 4 * HOUR
    assert (by_site.total.attempts, by_site.total.finished) == (2, 1)
    assert sum(sum(then.core_s.values()) for then in by_site.over_time) == 4 * HOUR


async def test_what_many_values_took_is_added_up_beside_the_event_loop(b, monkeypatch):
    """Of a label with 20,000 values in an hour that takes a third of a second."""
    await two_users(b)
    where: list[str] = []
    add = service._Sum.add

    def noted(*of):
        where.append(threading.current_thread().name)
        add(*of)

    monkeypatch.setattr(service._Sum, "add", noted)
    found = await usage(b, by="label:campaign", limit=1)
    assert ([row.key for row in found.rows], found.more) == ([{"label": "alice"}], 1)
    assert where
    assert threading.main_thread().name not in where


async def test_a_user_sees_what_is_theirs(b):
    await two_users(b)
    mine = await usage(b, ALICE, by="user,site")
    assert [row.key["user"] for row in mine.rows] == ["alice"]
    assert mine.total.core_s == 2 * HOUR
    with pytest.raises(Rejected, match="for admins"):
        await usage(b, ALICE, user="bob")


@pytest.mark.parametrize(
    "ask",
    [{"by": "node"}, {"by": "label:a,label:b"}, {"label": "a"}, {"by": "label:"}, {"label": "=a"}],
)
async def test_what_there_are_no_sums_of_is_refused(b, ask):
    with pytest.raises(Rejected):
        await usage(b, **ask)


async def test_hours_become_days_and_months_and_nothing_is_lost(b):
    run = await two_users(b)
    before = await usage(b, since=BEGAN - DAY)

    async def tidy() -> int:
        slices = 0
        while await b.service.store.write(lambda tx: accounting.tidy(tx, now=run.at)):
            slices += 1
        return slices

    assert await tidy() == 0
    for days, span in ((10, "day"), (200, "month")):
        run.at = BEGAN + days * DAY
        assert await tidy() > 0
        for by in (
            "",
            "user",
            "site",
            "queue",
            "user,site",
            "label:campaign",
            "label:campaign,user",
        ):
            after = await usage(b, by=by, since=BEGAN - DAY)
            assert len(after.rows) == (1 if by in ("", "queue") else 2)
            assert after.total.core_s == before.total.core_s
            assert {one.span for one in after.over_time} == {span}
            assert after.since <= BEGAN - DAY


async def test_rare_values_of_a_label_become_one_with_time(b):
    run = Run(b, 0)

    def change(tx):
        sums = dict.fromkeys(MEASURES, 1.0)
        for nr in range(3 * accounting.VALUES):
            tx.run(
                "usage.put",
                part="", label="run", at=BEGAN // HOUR * HOUR, span="hour", owner="eve", queue="q",
                site="",
                value=str(nr), outcome="finished", **sums | {"core_ms": 1000.0 * nr},
            )  # fmt: skip

    await b.service.store.write(change)
    run.at = BEGAN + 20 * DAY
    await b.service.store.write(lambda tx: accounting.tidy(tx, now=run.at))
    found = await usage(b, by="label:run", since=BEGAN - DAY, limit=1000)
    assert len(found.rows) == accounting.VALUES + 1
    assert found.rows[0].key == {"label": accounting.OTHERS}
    assert found.total.attempts == 3 * accounting.VALUES


# --- pilots ---------------------------------------------------------------------------------------


def told(busy: float, **idle: float) -> m.Occupancy:
    return m.Occupancy(busy_core_s=busy, idle_core_s=idle)


async def pilots(b: Bench) -> dict[str, float]:
    return (await usage(b, by="site")).total.pilot_core_s


async def beat(b: Bench, worker, occupancy: m.Occupancy) -> None:
    ask = m.Beat(jobs=(), room=Room(), occupancy=occupancy)
    await b.service.heartbeats.beat(ask, worker.caller)


async def test_idle_core_seconds_are_those_that_pilots_told_last(b):
    one, other = await b.worker(site="cern"), await b.worker(site="desy")
    for busy in (10.0, 25.0):
        await beat(b, one, told(busy, nothing=5.0, staging_in=1.5))
        await beat(b, other, told(2 * busy, draining=1.0, whatever=3.0))
        await b.forward(60)
    await beat(b, one, told(30.0, nothing=6.0))
    bye = m.Bye(ending="done", occupancy=told(31.0, nothing=7.0, staging_in=1.5))
    await b.service.workers.bye(bye, one.caller)
    wanted = {"busy": 81.0, "nothing": 7.0, "staging_in": 1.5, "draining": 1.0, "other": 3.0}
    assert await pilots(b) == wanted
    by_site = await usage(b, by="site")
    assert {row.key["site"]: row.pilot_core_s["busy"] for row in by_site.rows} == {
        "cern": 31.0,
        "desy": 50.0,
    }
    assert (await usage(b, by="user")).total.pilot_core_s == {}


def test_each_end_of_an_attempt_is_one_of_the_outcomes():
    from ailurus.protocol.accounting import outcome_of
    from ailurus.protocol.states import OPEN_ATTEMPT, AttemptState

    ends: Sequence[AttemptState] = [one for one in AttemptState if one not in OPEN_ATTEMPT]
    assert [one for one in ends if outcome_of(one, 0) is None] == [AttemptState.RELEASED]
    assert all(outcome_of(one, 0) is None for one in OPEN_ATTEMPT)
    assert outcome_of(AttemptState.FAILED, int(Code.WALLTIME)) is UsageOutcome.PAYLOAD
