"""A2, A5: what a relay owes is forgotten on the verdict of the dispatcher that gave it, and on no
other's."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client, Refused, Unreachable
from ailurus.wire.credentials import fixed_token
from ailurus.wire.retry import Patience
from harvester_edge.relay.state import PendingReport, RelayState, Terms
from harvester_edge.relay.store import RelayStore
from harvester_edge.relay.upstream import RelayUpstream
from tests.harvester_edge.relay.world import World, play

S = JobState
STRAY = [*range(400, 430), 451, 499, 500, 502, 503, 504]


def stranger(w: World, answer):
    """Something else stands at the dispatcher's address: `answer(name, ask)` is what it says."""
    right = w.way.call

    async def call(name, ask, kind, **more):
        said = answer(name, ask)
        if isinstance(said, Exception):
            w.way.up = False
            raise said
        return said

    w.way.call = call
    return lambda: setattr(w.way, "call", right) or setattr(w.way, "up", True)


def empty_dispatcher(name, ask):
    """Takes the relay's token, and has another store."""
    if name == "report":
        return m.ReportVerdicts(
            verdicts=tuple(
                m.ReportVerdict(job_id=one.job_id, attempt_nr=one.attempt_nr, verdict="badkey")
                for one in ask.reports
            )
        )
    return Unreachable("it has another name")


def liar(name, ask):
    if name != "report":
        return Unreachable("it has another name")
    return m.ReportVerdicts(
        verdicts=tuple(
            m.ReportVerdict(
                job_id=r.job_id, attempt_nr=r.attempt_nr, verdict=word, seal=r.report_key
            )
            for r in ask.reports
            for word in ("accepted", "alreadydone")
        )
    )


@pytest.mark.field("A2")
@pytest.mark.parametrize("who", [empty_dispatcher, liar, lambda *_: Unreachable("a portal")])
def test_a_report_behind_a_relay_waits_for_the_right_dispatcher(tmp_path, who):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        await pilot.beat()
        await w.turn()
        back = stranger(w, who)
        assert await pilot.report(got) == "accepted"  # by the relay, which owes it now
        for _ in range(3):
            for owed in w.state.owed.values():
                owed.again = 0.0
            await w.turn()
        assert set(w.state.owed) == {(one, 1)}
        w.kill()
        assert set(w.state.owed) == {(one, 1)}
        back()
        await w.turn(2)
        assert w.state.owed == {}
        assert await w.b.state(one) is S.FINISHED

    play(test, tmp_path)


@pytest.mark.field("A2")
@pytest.mark.parametrize("status", [401, 403, 413, 422])
def test_no_refusal_is_a_verdict(tmp_path, status):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        back = stranger(w, lambda *_: Refused(m.Problem(title="no", status=status, giver="g")))
        assert await pilot.report(got) == "accepted"
        assert set(w.state.owed) == {(one, 1)}
        back()
        w.state.owed[one, 1].again = 0.0
        await w.turn(2)
        assert await w.b.state(one) is S.FINISHED

    play(test, tmp_path)


@pytest.mark.field("A2")
def test_a_report_that_is_always_refused_holds_up_no_other(tmp_path):
    async def test(w: World):
        for nr in range(10**6, 10**6 + 1000):
            report = m.Report(job_id=nr, attempt_nr=1, report_key="k", finished=True)
            w.state.owed[nr, 1] = PendingReport(report, "s", again=time.monotonic() + 60)
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        w.way.up = False  # kept here, so that the loop must send it
        await pilot.report(got)
        await w.upper.send(w.state.due()[:500])
        assert await w.b.state(one) is S.FINISHED

    play(test, tmp_path)


@pytest.mark.field("A5")
def test_forged_reports_forget_nothing_that_is_owed(tmp_path):
    """Anybody in the cluster may report, by a key: a wrong one changes nothing."""

    async def test(w: World):
        (pilot,) = await w.pilots()
        ids = await w.submit(6)
        got = [one for _ in ids for one in await w.fill(pilot)]
        w.way.cut, w.way.up = True, False
        for one in got:
            assert await pilot.report(one) == "accepted"
        many = [
            PendingReport(
                m.Report(job_id=10**6 + n, attempt_nr=1, report_key="k", finished=True), "s"
            )
            for n in range(1500)
        ]
        await w.state.keep(many)
        w.way.cut = False
        for up in (False, True):
            w.way.up = up
            for owed in list(w.state.owed.values()):
                for key in ("forged", owed.report.report_key[:-1] + "x"):
                    forged = replace(owed.report, report_key=key, finished=False)
                    answer = await w.relay.report(m.Reports(reports=(forged,)))
                    assert [one.verdict for one in answer.verdicts] == ["badkey"]
                    assert answer.verdicts[0].seal == ""
        assert len(w.state.owed) == 1506
        w.kill()
        assert len(w.state.owed) == 1506
        w.way.up = True
        await w.upper.send([w.state.owed[one.job_id, 1] for one in got])
        assert {row.state for row in await w.rows(ids)} == {S.FINISHED}
        assert (
            len(w.state.owed) == 1500
        )  # the dispatcher knows none of these, so it may not be theirs

    play(test, tmp_path)


@pytest.mark.field("A5")
def test_a_forged_report_in_one_request_with_the_good_one(tmp_path):
    async def test(w: World):
        (pilot,) = await w.pilots()
        (one,) = await w.submit()
        (got,) = await w.fill(pilot)
        good = m.Report(
            job_id=one, attempt_nr=1, finished=True, ended=time.time(), report_key=got.report_key
        )
        forged = replace(good, report_key="x", finished=False)
        answer = await w.relay.report(m.Reports(reports=(forged, good, forged)))
        assert sorted(v.verdict for v in answer.verdicts) == ["accepted", "badkey", "badkey"]
        assert {v.seal for v in answer.verdicts if v.verdict == "accepted"} == {got.seal}
        assert await w.b.state(one) is S.FINISHED

    play(test, tmp_path)


@pytest.mark.field("A5")
def test_only_the_report_that_was_sent_is_settled(tmp_path):
    async def main():
        store = RelayStore(tmp_path / "relay.sqlite")
        try:
            state = RelayState(Terms(site="here"), store)
            good = PendingReport(
                m.Report(job_id=1, attempt_nr=1, report_key="k", finished=True), "s"
            )
            await state.keep([good])
            await state.settle([PendingReport(replace(good.report, finished=False), "s")])
            assert list(state.owed.values()) == [good]
            assert store.all("select count(*) from report") == [(1,)]
        finally:
            store.close()

    asyncio.run(main())


class Wire(Client):
    def __init__(self):
        super().__init__("http://127.0.0.1:1", fixed_token("t"), patience=Patience(total_s=0))
        self.said = (200, b"")

    def _once(self, *_, **__):
        return self.said


class Holder:
    giver, empty = "right", False

    async def meet(self, giver):
        self.giver = giver


TELL = ("relay_tell", m.RelayBeat(site="here"), m.RelayBeatAnswer)
CREDENTIALS = (
    "relay_credentials",
    m.RelayCredentials(site="here", worker_id=1, ask=m.CredentialsRequest(job_id=1, attempt_nr=1)),
    m.Credentials,
)


def asked(said, holder, ask=TELL):
    """What a relay makes of one answer to its word: the error, and whether it has a dispatcher."""

    async def main():
        wire = Wire()
        wire.said = said
        up = RelayUpstream(wire, holder, Log("test"))
        try:
            await up.call(*ask)
        except (Unreachable, Refused) as error:
            return type(error), up.up
        else:
            return None, up.up
        finally:
            up.close()

    return asyncio.run(main())


def problem(status, giver):
    return status, msgspec.json.encode(m.Problem(title="no", status=status, giver=giver))


@pytest.mark.field("A2")
@pytest.mark.parametrize("status", STRAY)
def test_a_stray_refusal_is_silence(status):
    for body in (b"<html>", b"", b"{}", problem(status, "")[1], problem(status, "other")[1]):
        assert asked((status, body), Holder()) == (Unreachable, False)


@pytest.mark.field("A2")
def test_another_store_is_no_dispatcher_while_something_is_here():
    told = msgspec.json.encode(m.RelayBeatAnswer(workers=(), heartbeat_s=10.0, giver="other"))
    holder = Holder()
    assert asked((200, told), holder) == (Unreachable, False)
    holder.empty = True
    assert asked((200, told), holder) == (None, True)
    assert holder.giver == "other"


@pytest.mark.field("A2")
@pytest.mark.parametrize("giver", ["right", ""])
def test_the_dispatcher_itself_and_one_from_before_names_are_heard(giver):
    told = msgspec.json.encode(m.RelayBeatAnswer(workers=(), heartbeat_s=10.0, giver=giver))
    assert asked((200, told), Holder()) == (None, True)
    assert asked(problem(403, "right"), Holder()) == (Refused, True)


def test_a_dispatcher_too_old_for_credentials_is_one_all_the_same():
    assert asked(problem(404, "right"), Holder(), CREDENTIALS) == (Refused, True)
    assert asked(problem(404, "other"), Holder(), CREDENTIALS) == (Unreachable, False)
    assert asked(problem(404, "right"), Holder()) == (Unreachable, False)


def test_the_version_before_can_read_and_write_what_this_one_left(tmp_path):
    async def main():
        store = RelayStore(tmp_path / "relay.sqlite")
        report = m.Report(job_id=1, attempt_nr=1, report_key="k", finished=True)
        await RelayState(Terms(site="here"), store).keep([PendingReport(report, "s")])
        old = "insert or ignore into report values (?,?,?,?)"
        row = (2, 1, 0.0, msgspec.json.encode(replace(report, job_id=2)))
        await store.write(lambda db: db.execute(old, row))
        store.close()
        store = RelayStore(tmp_path / "relay.sqlite")
        owed = RelayState(Terms(site="here"), store).owed
        store.close()
        assert {one: kept.seal for one, kept in owed.items()} == {(1, 1): "s", (2, 1): ""}

    asyncio.run(main())
