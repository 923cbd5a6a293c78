"""Why a job is where it is: what can never be passes on, and what helps is not refused."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery
from ailurus.protocol.errors import Code
from ailurus.protocol.resources import Resources, Room, Shape
from ailurus.protocol.states import JobState
from dispatcher.refusal import Rejected
from dispatcher.rules import remedies
from dispatcher.rules.why import short_of
from tests.dispatcher.helpers import ALICE, EDGE, job, run

SMALL = Room(cores=4, memory_mb=8000, disk_mb=8000)
SLOT = m.SlotShape(name="s", queue="q", room=SMALL)


async def why(b, job_id):
    b.service._supply = None
    return await b.service.users.why(NoQuery(), ALICE, job_id=job_id)


async def hello(b, **fields):
    ask = m.Hello(**{"site": "here", "instance": "e1", "slots": (SLOT,), **fields})
    return await b.service.edges.hello(ask, EDGE)


@pytest.mark.field("H6")
async def test_that_a_job_can_never_start_passes_to_all_that_wait_for_it(b):
    huge, child, grandchild, other = await b.submit(
        job("huge", cores=5000),
        job("child", depends_on=("huge",)),
        job("grandchild", depends_on=("child",)),
        job("other"),
    )
    assert (await why(b, grandchild)).verdict == "later"
    await b.worker(total=SMALL)
    assert [(await why(b, one)).verdict for one in (huge, child, grandchild)] == ["never"] * 3
    told = await why(b, grandchild)
    assert f"job {huge}" in told.sentence
    assert "5000 cores" in told.sentence
    assert (await why(b, other)).verdict == "now"


@pytest.mark.field("H6")
async def test_a_job_whose_ancestors_can_start_just_waits(b):
    _, child = await b.submit(job("p"), job("c", depends_on=("p",)))
    await b.worker(total=SMALL)
    assert (await why(b, child)).verdict == "later"


async def failed(b, code, **facts):
    (one,) = await b.submit()
    (got,) = await (await b.worker()).acquire()
    await b.worker()
    worker = await b.worker()
    await worker.report(got, finished=False, code=code, diagnosis="it broke", **facts)
    return one


@pytest.mark.field("H6")
@pytest.mark.parametrize(
    "code", [c for c in Code if not c.transient and c is not Code.PARENT_FAILED]
)
def test_a_retry_is_advised_where_it_may_help_and_nowhere_else(tmp_path, code):
    async def test(b):
        one = await failed(b, code)
        remedy = (await why(b, one)).remedy
        assert (f"dispatcher retry {one}" in remedy) is remedies.of(code).again
        assert remedy.count(";") >= 1

    if code is not Code.OK:
        run(test, tmp_path)


@pytest.mark.field("H6")
def test_what_the_pilot_says_helps_comes_first(tmp_path):
    async def test(b):
        one = await failed(b, Code.STORAGE_FORBIDDEN, remedy="use file:///data")
        assert (await why(b, one)).remedy.startswith("use file:///data; then submit it anew")

    run(test, tmp_path)


@pytest.mark.field("H6")
async def test_a_child_of_a_failed_job_is_advised_what_is_not_refused(b):
    first, second, third = await b.submit(
        job("a"), job("b", depends_on=("a",)), job("c", depends_on=("b",))
    )
    (got,) = await (await b.worker()).acquire()
    await (await b.worker()).report(got, finished=False, code=1305, diagnosis="no")
    while await b.state(third) is not JobState.FAILED:
        await b.service.store.read(lambda tx: None)
    remedy = (await why(b, third)).remedy
    assert f"`dispatcher retry {first} {second} {third}`" in remedy
    with pytest.raises(Rejected):
        await b.service.intake.retry(m.Retry(job_ids=(third,)), ALICE)
    ids = tuple(int(word) for word in remedy.split("retry ")[-1].strip("`").split())
    assert len((await b.service.intake.retry(m.Retry(job_ids=ids), ALICE)).job_ids) == 3


@pytest.mark.field("H7")
async def test_why_names_the_silent_edge_that_would_serve_the_job(b):
    await hello(b)
    (one,) = await b.submit()
    assert "can provision one" in (await why(b, one)).sentence
    await b.forward(500.0)
    told = await why(b, one)
    assert "nobody provisions one now" in told.sentence
    assert any("the edge of site here is silent" in text for text in told.blockers)
    assert "harvester-edge run" in told.remedy


@pytest.mark.field("H7")
async def test_why_names_the_paused_site(b):
    await hello(b, online=False)
    (one,) = await b.submit()
    told = await why(b, one)
    assert any("site here is paused" in text for text in told.blockers)
    assert "resume" in told.remedy


@pytest.mark.field("H7")
async def test_why_of_a_running_job_tells_that_its_pilot_is_late(b):
    (one,) = await b.submit()
    worker = await b.worker()
    (got,) = await worker.acquire()
    await worker.beat(got)
    assert "heartbeat" not in (await why(b, one)).sentence
    await b.forward(25.0)
    assert "missed a heartbeat" in (await why(b, one)).sentence


def test_what_several_nodes_lack_is_said_of_each():
    apart = Room.over(
        {Resources(cores=4, memory_mb=8000): 2, Resources(cores=1, memory_mb=9000): 1},
        seconds_left=None,
    )
    lacks = {
        "needs 3 nodes with 4 cores free on each, has 2": Shape(cores=4, nodes=3),
        "needs 4 nodes, has 3": Shape(nodes=4),
        "needs 5 cores, has 4": Shape(cores=5),
        "needs a node with 4 cores and 9000 MB of memory free, has 0": Shape(
            cores=4, memory_mb=9000
        ),
        "": Shape(nodes=3),
    }
    assert {short_of(shape, apart): shape for shape in lacks.values()} == lacks


async def test_a_job_of_several_nodes_is_told_which_nodes_it_waits_for(b):
    narrow, wide, never = await b.submit(
        job("narrow", disk_mb=1000, priority=1),
        job("wide", nodes=3, cores=4, disk_mb=1000),
        job("never", nodes=4, disk_mb=1000),
    )
    worker = await b.worker(total=replace(SMALL, nodes=3))
    assert [one.job_id for one in await worker.acquire(room=replace(SMALL, nodes=3))] == [narrow]
    told = await why(b, wide)
    assert told.sentence.startswith("No pilot has 3 nodes with 4 cores free on each now; ")
    assert "1 pilots: it needs 3 nodes with 4 cores free on each, has 2" in told.blockers
    told = await why(b, never)
    assert (told.verdict, "4 nodes are asked for" in told.sentence) == ("never", True)
