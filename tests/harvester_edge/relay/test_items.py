"""Items of jobs whose pilots are behind a relay."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import LogQuery
from ailurus.protocol.item import ItemOutcome
from ailurus.protocol.states import JobState
from harvester_edge.relay.state import Refusal
from tests.dispatcher.helpers import ALICE
from tests.harvester_edge.relay.world import World, play


def done(item: m.ItemLease) -> m.ItemEnd:
    return m.ItemEnd(index=item.index, attempt=item.attempt, outcome=ItemOutcome.FINISHED)


def test_news_of_items_go_through_and_come_with_the_report_after_an_outage(tmp_path):
    async def test(w: World) -> None:
        job_id = await w.b.carrying(5, memory_mb=100)
        (pilot,) = await w.pilots()
        (one,) = await w.fill(pilot, items=True)
        got = (await pilot.exchange(one, 9)).items
        assert [item.index for item in got] == [0, 1, 2, 3, 4]
        await pilot.exchange(one, 0, *map(done, got[:2]))
        w.way.cut = True
        with pytest.raises(Refusal) as refused:
            await pilot.exchange(one, 0, *map(done, got[2:]))
        assert refused.value.problem.status == 503
        await pilot.report(one, items=tuple(map(done, got[2:])))
        w.way.cut = False
        await w.turn(2)
        detail = await w.b.service.users.show(None, ALICE, job_id=job_id)
        assert (detail.row.state, detail.items.finished) == (JobState.FINISHED, 5)

    play(test, tmp_path)


def test_a_pilot_that_does_not_know_items_gets_no_such_job_by_a_relay(tmp_path):
    async def test(w: World) -> None:
        await w.b.carrying(5, memory_mb=100)
        (plain,) = await w.submit()
        (pilot,) = await w.pilots()
        assert [one.job_id for one in await w.fill(pilot)] == [plain]

    play(test, tmp_path)


def test_items_of_another_pilots_job_are_refused(tmp_path):
    async def test(w: World) -> None:
        await w.b.carrying(5, memory_mb=100)
        one, other = await w.pilots(2)
        (job,) = await w.fill(one, items=True)
        with pytest.raises(Refusal) as refused:
            await other.exchange(job, 1)
        assert refused.value.problem.status == 404

    play(test, tmp_path)


def test_no_pilot_writes_to_the_log_of_another_pilots_job(tmp_path):
    async def test(w: World) -> None:
        (job_id,) = await w.submit()
        one, other = await w.pilots(2)
        (job,) = await w.fill(one)
        for pilot, text in ((other, "forged"), (one, "said")):
            piece = m.LogPiece(
                job_id=job_id, attempt_nr=job.attempt_nr, stream="stdout", offset=0, text=text
            )
            await w.relay.log_pieces(m.LogPieces(pieces=(piece,)), pilot.known)
        await w.turn(2)
        chunk = await w.b.service.users.log(LogQuery(), ALICE, job_id=job_id)
        assert chunk.text == "said"

    play(test, tmp_path)
