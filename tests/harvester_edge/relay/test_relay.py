"""What a relay promises, before a real dispatcher's rules and store."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import WorkerTimelineQuery
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending
from harvester_edge.relay import state
from harvester_edge.relay.state import Refusal
from tests.dispatcher.helpers import ALICE, new_id
from tests.harvester_edge.relay.world import ROOM, Pilot, World, play

S = JobState


def test_a_job_goes_through_the_relay_in_its_pilots_name(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        await pilot.beat()
        await w.turn()
        assert await w.b.state(one) is S.RUNNING
        assert await pilot.report(got) == "accepted"
        assert await w.b.state(one) is S.FINISHED
        (row,) = await w.rows([one])
        detail = await w.b.service.users.show(None, ALICE, job_id=one)
        assert (row.attempt_nr, detail.attempts[0].worker_id) == (1, pilot.known.worker_id)

    play(test, tmp_path)


def test_what_a_pilot_tells_of_its_cores_passes_the_relay_and_its_goodbye_keeps_it(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        told = m.Occupancy(nodes=(m.NodeSize(cores=4),), busy_core_s=7.0)
        await w.relay.beat(m.Beat(room=ROOM, occupancy=told), pilot.known)
        await w.turn()
        ask = WorkerTimelineQuery(worker_id=pilot.known.worker_id)
        seen = await w.b.service.timelines.worker_timeline(ask, ALICE)
        assert (seen.busy_core_s, [node.cores for node in seen.nodes]) == (7.0, [4])
        await pilot.bye()
        await w.turn(3)
        seen = await w.b.service.timelines.worker_timeline(ask, ALICE)
        assert (seen.busy_core_s, seen.worker.ending) == (7.0, Ending.DONE)

    play(test, tmp_path)


def test_hours_without_a_dispatcher_cost_no_job_and_repeat_none(tmp_path):
    """Pilots work from what was fetched ahead; every report arrives and counts once."""

    async def test(w: World):
        pilots = await w.pilots(3)
        ids = await w.submit(12)
        for pilot in pilots:
            await w.fill(pilot)
        await w.turn(12)
        w.way.cut = True
        await w.turn()
        reported = 0
        for _ in range(20):
            await w.b.forward(360)  # two hours in all
            for pilot in pilots:
                await pilot.beat()
                for got in list(pilot.has.values()):
                    assert await pilot.report(got) == "accepted"
                    reported += 1
                await pilot.acquire()
            await w.turn()
        assert reported >= 9  # three at hand and two ahead of each
        assert {row.state for row in await w.rows(ids)} == {S.SENT, S.ACTIVATED}
        w.way.cut = False
        await w.turn(2)
        rows = await w.rows(ids)
        assert sum(row.state is S.FINISHED for row in rows) == reported
        for pilot in pilots:
            while got := await w.fill(pilot) if len(w.state.jobs) or _waits(rows) else []:
                await pilot.report(got[0])
                rows = await w.rows(ids)
        assert [(row.state, row.attempt_nr) for row in rows] == [(S.FINISHED, 1)] * 12

    play(test, tmp_path, prefetch=2)


def _waits(rows: list[m.JobRow]) -> bool:
    return any(row.state is S.ACTIVATED for row in rows)


def test_a_pilot_that_starts_in_an_outage_is_known_by_its_edges_note_and_works(tmp_path):
    async def test(w: World):
        (first,) = await w.pilots()
        late, stray, forged = await w.plan(3)
        ids = await w.submit(2)
        (got,) = await w.fill(first)
        await w.turn(3)
        w.way.cut = True
        await w.turn()
        assert (await late.register()).worker_id == 0
        (taken,) = await late.acquire()
        stray.credential = late.credential
        with pytest.raises(Refusal) as no:
            await stray.register()
        assert no.value.problem.status == 409
        forged.credential = forged.credential[:-1] + "x"
        with pytest.raises(Refusal) as no:
            await forged.register()
        assert no.value.problem.status == 503
        assert await late.report(taken) == "accepted"
        assert await first.report(got) == "accepted"
        w.way.cut = False
        await w.turn()
        assert late.known.worker_id
        assert [(row.state, row.attempt_nr) for row in await w.rows(ids)] == [(S.FINISHED, 1)] * 2

    play(test, tmp_path)


def test_a_stray_is_told_so_by_the_dispatcher(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        stray = Pilot(w, pilot.credential)
        with pytest.raises(Refusal) as no:
            await stray.register()
        assert no.value.problem.status == 409

    play(test, tmp_path)


def test_a_killed_relay_knows_what_it_has_answered(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        ids = await w.submit(3)
        waiting = asyncio.create_task(pilot.acquire(wait_s=5, request="once"))
        await asyncio.sleep(0.01)
        await w.turn()
        (got,) = await waiting
        await w.turn(2)  # one more is fetched ahead
        w.kill()
        assert await pilot.acquire(request="once") == [got]
        w.way.cut = True
        w.way.up = False
        assert await pilot.report(got) == "accepted"
        w.kill()
        (ahead,) = await pilot.acquire()
        assert await pilot.report(ahead) == "accepted"
        w.kill()
        w.way.cut = False
        await w.turn(2)
        (last,) = await w.fill(pilot)
        await pilot.report(last)
        assert [(row.state, row.attempt_nr) for row in await w.rows(ids)] == [(S.FINISHED, 1)] * 3

    play(test, tmp_path)


def test_what_a_lost_answer_leased_comes_with_the_next(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        w.way.loses = lambda name: name == "relay_acquire"
        waiting = asyncio.create_task(pilot.acquire(wait_s=5))
        await asyncio.sleep(0.01)
        await w.turn()
        assert await w.b.state(one) is S.SENT
        w.kill()
        w.way.loses = lambda name: False
        waiting.cancel()
        (got,) = await w.fill(pilot)
        assert (got.job_id, got.attempt_nr) == (one, 1)

    play(test, tmp_path)


def test_who_goes_gives_back_what_waits_for_it(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        ids = await w.submit(2)
        (got,) = await w.fill(pilot)
        await w.turn(2)
        assert w.state.counts()["ready"] == 1
        await pilot.report(got)
        await pilot.bye()
        await w.turn(2)
        states = [await w.b.state(one) for one in ids]
        assert sorted(states) == [S.ACTIVATED, S.FINISHED]
        assert w.state.counts() == {"pilots": 0, "jobs": 0, "ready": 0, "owed": 0}
        with pytest.raises(Refusal):
            pilot.known  # noqa: B018 - its token opens nothing any more

    play(test, tmp_path)


@pytest.mark.parametrize("how", ["beat", "bye"])
def test_a_pilot_that_goes_waits_for_no_job_any_more(tmp_path, how):
    """Through a spool nobody hangs up: its question would lie there until its time is over."""

    async def test(w: World):
        (pilot,) = await w.pilots()
        waiting = asyncio.create_task(pilot.acquire(wait_s=30))
        await asyncio.sleep(0.01)
        if how == "beat":
            await w.relay.beat(m.Beat(room=ROOM, draining=True), pilot.known)
        else:
            await pilot.bye()
        assert await asyncio.wait_for(waiting, 1) == []

    play(test, tmp_path)


def test_a_pilots_job_runs_elsewhere_and_its_goodbye_waits_for_that(tmp_path):
    async def test(w: World):
        owner, other = await w.pilots(2)
        ids = await w.submit(2)
        (got,) = await w.fill(owner)
        await w.turn(2)
        w.way.cut = True
        await w.turn()
        (taken,) = await other.acquire()
        await owner.report(got)
        await owner.bye()
        w.way.cut = False
        await w.turn(2)
        assert w.state.counts()["pilots"] == 2
        await w.b.forward(3600)
        await other.beat()
        await w.turn()
        assert (await w.rows([taken.job_id]))[0].state is S.RUNNING
        assert await other.report(taken) == "accepted"
        await w.turn(2)
        assert w.state.counts()["pilots"] == 1
        assert [(row.state, row.attempt_nr) for row in await w.rows(ids)] == [(S.FINISHED, 1)] * 2

    play(test, tmp_path)


def test_a_silent_pilots_job_goes_to_another_long_before_the_outage_tolerance(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        pilot.known.last_seen -= 1000
        await w.upper._look_for_silent()
        await w.turn(2)
        assert await w.b.state(one) is S.ACTIVATED
        assert await pilot.report(got) == "accepted"  # its own report may still win
        assert await w.b.state(one) is S.FINISHED

    play(test, tmp_path)


def test_r2_a_relay_that_was_stopped_loses_nobody(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        await w.fill(pilot)
        pilot.known.last_seen -= 600
        w.upper._looked -= 600
        await w.upper._look_for_silent()
        await w.turn(2)
        assert await w.b.state(one) is S.SENT

    play(test, tmp_path)


def test_commands_reach_who_has_the_job(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        ids = await w.submit(2)
        (got,) = await w.fill(pilot)
        await w.turn(2)
        await w.b.service.users.cancel(m.Cancel(job_ids=tuple(ids)), ALICE)
        await pilot.beat()
        await w.turn(3)
        told = (await pilot.beat()).commands
        assert [(one.job_id, one.action) for one in told] == [(got.job_id, m.Action.KILL)]
        assert w.state.counts()["ready"] == 0  # the one that waited is forgotten

    play(test, tmp_path)


def test_a_drained_worker_is_told(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        heard = w.b.service.state.live[pilot.known.worker_id]
        heard.draining = True
        await pilot.beat()
        await w.turn()
        assert (await pilot.beat()).drain
        assert await pilot.acquire() == []

    play(test, tmp_path)


def test_a_forged_report_is_neither_kept_nor_passed_on(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        assert await pilot.report(got, key="forged") == "badkey"
        w.way.cut = True
        await w.turn()
        with pytest.raises(Refusal) as no:  # nothing that the relay could check
            await w.relay.report(
                m.Reports(
                    reports=(m.Report(job_id=999, attempt_nr=1, report_key="x", finished=True),)
                )
            )
        assert no.value.problem.status == 503
        w.way.cut = False
        await w.turn()
        assert await w.b.state(one) is S.SENT
        assert w.state.counts()["owed"] == 0

    play(test, tmp_path)


def test_t4_a_pilot_can_name_no_other_pilots_job(tmp_path):
    async def test(w: World):
        owner, thief = await w.pilots(2)
        (one,) = await w.submit()
        (got,) = await w.fill(owner)
        held = m.AttemptKey(job_id=got.job_id, attempt_nr=got.attempt_nr)
        await w.relay.release(m.Release(jobs=(held,)), thief.known)
        update = m.Update(
            job_id=got.job_id, attempt_nr=got.attempt_nr, state=S.HOLDING, since=time.time()
        )
        await w.relay.beat(m.Beat(jobs=(update,), room=ROOM), thief.known)
        await w.turn()
        assert await w.b.state(one) is S.SENT
        assert got.job_id in {job.id[0] for job in owner.known.holds}

    play(test, tmp_path)


def test_a_job_given_back_is_taken_by_another_or_goes_home(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        held = m.AttemptKey(job_id=got.job_id, attempt_nr=got.attempt_nr)
        await w.relay.release(m.Release(jobs=(held,)), pilot.known)
        pilot.has.clear()
        await w.turn()
        assert await w.b.state(one) is S.ACTIVATED

    play(test, tmp_path)


async def random_step(w: World, pilots: list[Pilot], chance: random.Random) -> None:
    """One thing that may happen, and a turn of the relay."""
    what = chance.random()
    pilot = chance.choice(pilots)
    if what < 0.06:
        w.way.cut = not w.way.cut
    elif what < 0.12:
        w.kill()
    elif what < 0.2:
        await w.b.forward(chance.uniform(0, 300))
    elif what < 0.25 and len(pilots) > 1 and not pilot.has:
        await pilot.bye()
        pilots.remove(pilot)
    elif what < 0.30 and len(pilots) < 6:
        (new,) = await w.plan()
        await new.register()
        pilots.append(new)
    elif what < 0.5:
        await pilot.beat()
    elif what < 0.7 and pilot.has:
        await pilot.report(chance.choice(list(pilot.has.values())))
    elif len(pilot.has) < 3:
        request = new_id()
        asking = asyncio.create_task(pilot.acquire(wait_s=0.02, request=request))
        await asyncio.sleep(0)
        await w.turn()
        first = await asking
        if first and chance.random() < 0.3:  # it never heard the answer, and asks again
            assert await pilot.acquire(request=request) == first
    await w.turn()


async def finish(w: World, pilots: list[Pilot], ids: list[int]) -> None:
    """Nothing fails any more: the pilots end what there is."""
    deadline = time.monotonic() + 20
    while left := [row for row in await w.rows(ids) if row.state is not S.FINISHED]:
        assert time.monotonic() < deadline, (left, w.state.counts(), w.state.jobs, pilots)
        for pilot in pilots:
            for got in list(pilot.has.values()):
                await pilot.report(got)
            asking = asyncio.create_task(pilot.acquire(wait_s=0.05))
            await asyncio.sleep(0)
            await w.turn(2)
            await asking


@pytest.mark.parametrize("seed", range(8))
def test_r1_whatever_fails_when_each_job_ends_once(tmp_path, seed):
    """Outages, lost answers and kills of the relay at random; pilots that come and go in order."""
    chance = random.Random(seed)

    async def test(w: World):
        w.way.loses = lambda name: chance.random() < 0.1
        ids = await w.submit(40)
        pilots = await settled(w, 3)
        for _ in range(250):
            try:
                await random_step(w, pilots, chance)
            except Refusal as error:
                if error.problem.status != 503:
                    raise
        w.way.cut, w.way.loses = False, lambda name: False
        await w.turn(2)
        await finish(w, pilots, ids)
        for one in ids:  # an attempt that was given back unbegun is none
            detail = await w.b.service.users.show(None, ALICE, job_id=one)
            assert [a.state for a in detail.attempts if a.state != "released"] == ["finished"]
        assert w.state.counts()["owed"] == 0

    play(test, tmp_path, prefetch=2)


async def settled(w: World, count: int) -> list[Pilot]:
    """Pilots that have registered, however often that takes."""
    made = await w.plan(count)
    for one in made:
        while not one.token:
            try:
                await one.register()
            except Refusal as error:
                if error.problem.status != 503:
                    raise
    return made


def test_heartbeats_get_slower_with_many_pilots(tmp_path):
    async def test(w: World):
        await w.pilots()
        assert w.state.heartbeat_s == 10
        (one,) = w.state.pilots.values()
        w.state.pilots |= {str(n): one for n in range(9_999)}
        assert w.state.heartbeat_s == pytest.approx(10_000 / state.BEATS_PER_S)

    play(test, tmp_path)
