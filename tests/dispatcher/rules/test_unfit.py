"""A job that cannot be handed out fails by itself: the next is taken, whoever waits in whatever
queue."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.messages import DoneFile
from ailurus.protocol.panda_acquire import JobRequest
from ailurus.protocol.states import JobState
from dispatcher.door.readiness import Readiness
from dispatcher.refusal import Rejected
from dispatcher.rules import attempts, retention
from dispatcher.service.panda import acquire as panda_acquire
from tests.dispatcher.helpers import ALICE, job, run

S = JobState
pytestmark = pytest.mark.field("A3")

BODIES = {
    "not JSON": b"{",
    "not UTF-8": b'{"name":"\xff","command":"true"}',
    "half a character": b'{"name":"a","command":"\\ud800"}',
    "another type": b"[]",
    "without a name": b"{}",
    "empty": b"",
    "too long a URL": b'{"name":"a","inputs":[{"name":"i","url":"http://h/' + b"x" * 3000 + b'"}]}',
}


def damage(b, job_id: int, spec: bytes | None) -> None:
    """Make a stored body unreadable; None: take it away."""

    def change(connection) -> None:
        if spec is None:
            connection.execute("delete from body where job_id = ?", (job_id,))
        else:
            connection.execute("update body set spec = ? where job_id = ?", (spec, job_id))
        connection.commit()

    change(b.service.store._writer)


async def parent_and_child(b, url: str, **facts):
    """A child whose input is what its parent left at `url`, ahead of everybody in every queue."""
    out = OutputFile(name="out", url="http://h/d")
    (parent,) = await b.submit(job("parent", outputs=(out,)))
    wanted = InputFile(name="out")
    child = job("child", inputs=(wanted,), depends_on=(parent,), queue="", priority=1000, **facts)
    (child_id,) = await b.submit(child)
    worker = await b.worker()
    (got,) = await worker.acquire()
    file = DoneFile(name="out", url=url, size=3, adler32="00000001")
    assert await worker.report(got, files=(file,)) == "accepted"
    return child_id, worker


def test_a_file_may_have_as_long_a_url_as_its_directory_and_its_name_make(tmp_path):
    url = (
        "http://h/" + "x" * 1981 + "/12345.1." + "n" * 200
    )  # a directory of 1,990 characters is legal

    async def test(b):
        child, worker = await parent_and_child(b, url)
        (got,) = await worker.acquire()
        assert got.job_id == child
        assert url.encode() in bytes(got.spec)

    run(test, tmp_path)


@pytest.mark.parametrize("url", ["http://h/a b", "no-scheme", "http://h/" + "x" * 2492])
def test_a_child_of_a_file_that_no_pilot_could_read_fails_alone(tmp_path, url, logged):
    async def test(b):
        await b.submit(job("other", queue="q2"))
        child, _ = await parent_and_child(b, url)
        (other,) = await (await b.worker("q2")).acquire()
        assert other.job_id != child
        detail = await b.service.users.show(None, ALICE, job_id=child)
        assert (detail.row.state, detail.row.code) == (S.FAILED, Code.NOT_HANDED_OUT)
        assert "input out" in detail.row.diagnosis
        assert detail.spec.name == "child"
        assert [e.data["state"] for e in await b.told() if e.job_id == child][-1] == "failed"
        (line,) = logged
        assert line["job_id"] == child
        assert line["user"] == "alice"

    run(test, tmp_path)


@pytest.mark.parametrize("spec", [*BODIES.values(), None], ids=[*BODIES, "none"])
def test_a_stored_body_that_cannot_be_read_fails_its_job_and_no_other(tmp_path, spec):
    async def test(b):
        bad, good = await b.submit(job("bad", priority=9), job("good"))
        (child,) = await b.submit(job("child", depends_on=(bad,)))
        damage(b, bad, spec)
        (got,) = await (await b.worker()).acquire()
        assert got.job_id == good
        assert await b.state(bad) is S.FAILED
        assert await b.state(child) is S.FAILED
        with pytest.raises(Rejected) as refused:
            await b.service.intake.retry(m.Retry(job_ids=(bad,)), ALICE)
        assert refused.value.status == 409
        moved = await b.service.store.write(lambda tx: retention.tidy(tx, before=2**40))
        assert not moved
        assert (await b.service.users.show(None, ALICE, job_id=bad)).row.state is S.FAILED

    run(test, tmp_path)


def test_any_number_of_unfit_jobs_hold_nobody_up(tmp_path):
    async def test(b):
        bad = await b.submit(*(job(f"bad{nr}", priority=9) for nr in range(350)))
        (good,) = await b.submit(job("good"))
        for one in bad:
            damage(b, one, b"{")
        (got,) = await (await b.worker()).acquire()
        assert got.job_id == good

    run(test, tmp_path)


def test_a_request_repeated_gets_what_is_still_fit(tmp_path):
    async def test(b):
        bad, good = await b.submit(job("bad"), job("good"))
        worker = await b.worker()
        assert len(await worker.acquire(2, request="r")) == 2
        damage(b, bad, b"{")
        (again,) = await worker.acquire(2, request="r")
        assert again.job_id == good
        assert await b.state(bad) is S.FAILED

    run(test, tmp_path)


def test_a_fault_in_one_jobs_translation_for_panda_fails_that_job(tmp_path, monkeypatch):
    whole = panda_acquire.panda.job_dictionary

    def faulty(sent):
        if sent.spec.name == "bad":
            raise KeyError("coreCount")
        return whole(sent)

    monkeypatch.setattr(panda_acquire.panda, "job_dictionary", faulty)

    async def test(b):
        bad, good = await b.submit(job("bad", priority=9), job("good"))
        ask = panda_acquire.Acquisition(request=JobRequest(site="q", node="n1", count=1))
        (got,) = await panda_acquire.acquire(b.service, ask)
        assert int(got["PandaID"]) == good
        row = (await b.service.users.show(None, ALICE, job_id=bad)).row
        assert (row.state, row.code) == (S.FAILED, Code.NOT_HANDED_OUT)
        assert b.service.state.leases.of(bad) is None
        assert (await b.service.users.show(None, ALICE, job_id=bad)).attempts[0].ended

    run(test, tmp_path)


def test_readiness_tries_to_hand_out_a_job(tmp_path, monkeypatch):
    async def test(b):
        bad, _ = await b.submit(job("bad", priority=9), job("good"))
        damage(b, bad, b"{")
        readiness = Readiness(b.service.store, b.service.workers.rehearse)
        await readiness.check()
        assert await b.state(bad) is S.ACTIVATED  # it only looks
        monkeypatch.setattr(attempts, "tried_on", lambda tx, job_id: 1 / 0)
        with pytest.raises(Rejected) as refused:
            await Readiness(b.service.store, b.service.workers.rehearse).check()
        assert refused.value.status == 503
        assert "ZeroDivisionError" in refused.value.detail

    run(test, tmp_path)


def test_a_job_that_is_gone_stops_no_lease_of_another_and_no_word_about_it(tmp_path):
    async def test(b):
        await b.submit(*(job(f"j{nr}") for nr in range(3)))
        worker = await b.worker()
        gone, other, back = await worker.acquire(3)
        b.service.store._writer.execute("delete from job where job_id = ?", (gone.job_id,))
        await worker.beat(gone, other)
        assert await b.state(other.job_id) is S.RUNNING
        ask = m.Release(
            jobs=tuple(
                m.AttemptKey(job_id=one.job_id, attempt_nr=one.attempt_nr) for one in (gone, back)
            )
        )
        await b.service.workers.release(ask, worker.caller)
        assert await b.state(back.job_id) is S.ACTIVATED
        await b.forward(10_000)
        assert await b.state(other.job_id) is S.ACTIVATED

    run(test, tmp_path)


def test_a_refusal_of_the_store_fails_no_job(tmp_path, monkeypatch):
    async def test(b):
        (one,) = await b.submit(job())
        worker = await b.worker()
        b.service.store._writer.execute("alter table body rename to hidden")
        with pytest.raises(Exception, match="body"):
            await asyncio.wait_for(worker.acquire(), 5)
        b.service.store._writer.execute("alter table hidden rename to body")
        assert await b.state(one) is S.ACTIVATED
        assert len(await worker.acquire()) == 1

    run(test, tmp_path)


def test_r7_a_job_of_a_newer_version_is_left_to_a_pilot_of_that_version(tmp_path):
    async def test(b):
        out = OutputFile(name="out", url="http://h/d")
        await b.submit(job("parent", outputs=(out,)))
        worker = await b.worker()
        (got,) = await worker.acquire()
        file = DoneFile(name="out", url="http://h/d/out", size=3, adler32="00000001")
        await worker.report(got, files=(file,))
        wanted = (InputFile(name="out"),)
        (child,) = await b.submit(job("child", inputs=wanted, depends_on=(got.job_id,)))
        damage(b, child, b'{"name":"child","command":"x","inputs":[{"name":"out"}],"colour":"red"}')
        (sent,) = await worker.acquire()
        spec = msgspec.json.decode(bytes(sent.spec))
        assert (sent.job_id, spec["colour"]) == (child, "red")
        assert spec["inputs"][0]["url"] == "http://h/d/out"
        assert (await b.service.users.show(None, ALICE, job_id=child)).spec.command == "x"

    run(test, tmp_path)
