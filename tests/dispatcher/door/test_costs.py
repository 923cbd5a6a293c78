"""What one user may send, times what a unit of it costs, stays below a figure at every door."""

from __future__ import annotations

import asyncio
import re
import threading
import typing
from collections.abc import Iterator
from types import UnionType

import msgspec
import pytest
from msgspec import inspect

from ailurus.protocol import messages as m
from ailurus.protocol.api import ROUTES, Filter, JobsQuery, Scope
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import InputFile
from ailurus.protocol.states import JobState
from dispatcher.accounts import costs
from dispatcher.accounts.meter import METER
from dispatcher.accounts.rates import BURST_S, Limiter, Rates, TooMuch
from dispatcher.auth.tokens import USER
from dispatcher.door import http
from dispatcher.door.app import App
from dispatcher.door.settings import DoorSettings
from dispatcher.panda.door import PandaSettings
from dispatcher.rules import submission
from dispatcher.service import search
from tests.dispatcher.helpers import ALICE, BOB, bench, job, run
from tests.dispatcher.panda.conftest import Dispatcher
from tests.rig.waiting import eventually

SHARE = 0.25  # of the dispatcher's time that one user may take for long
ONE_MESSAGE_S = 15.0  # the dearest of all, in slices that others come between
MANY = 100  # things in a message below which a request pays for them
RATES = Rates()

ITEM7 = pytest.mark.field("A7", "A9", "A21", "A27")
MOST_UNITS = {
    "submit": {"jobs": costs.JOB_S, "links": costs.LINK_S},
    "retry": {"job_ids": costs.RETRIED_S},
    "reregister": {"job_ids": costs.RETRIED_S},
    "cancel": {"job_ids": costs.CANCELLED_S},
    "cancel_many": {"job_ids": costs.CANCELLED_S},
    "retry_many": {"job_ids": costs.RETRIED_S},
    "change_many": {"job_ids": costs.CANCELLED_S},
    "wait": {"job_ids": costs.WATCHED_S},
    "add_items": {"items": costs.ITEM_S},
    "add_points": {"points": costs.POINT_S},
}


def lengths(kind: type) -> dict[str, int]:
    """The list-like fields of a message, and how much each may hold."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for one in typing.get_args(hint) if isinstance(hint, UnionType) else (hint,):
            bare = one.__origin__ if isinstance(one, typing.Annotated[int, 0].__class__) else one
            if typing.get_origin(bare) is tuple:
                metas = getattr(one, "__metadata__", ())
                most = [x.max_length for x in metas if isinstance(x, msgspec.Meta)]
                found[name] = next((x for x in most if x is not None), 10**9)
    return found


def bounded() -> list:
    return [route for route in ROUTES if route.scope in USER - {Scope.ADMIN}]


@ITEM7
@pytest.mark.parametrize("route", bounded(), ids=lambda route: route.name)
def test_a_user_keeps_the_dispatcher_busy_for_no_more_than_a_share(route):
    many = {name: most for name, most in lengths(route.ask).items() if most > MANY}
    declared = MOST_UNITS.get(route.name, {})
    assert set(many) <= set(declared), "declare in `costs` what one of these costs"
    whole = costs.BYTE_S * http.BODIES.get(route.name, http.LONGEST_BODY)
    for name, most in many.items():
        assert most < 10**9, f"{route.name}: {name} may hold any number"
        whole += most * declared[name]
    whole += declared.get("links", 0.0) * submission.MOST_LINKS
    assert whole <= ONE_MESSAGE_S
    if many:
        few, more = (_message(route.name, n) for n in (1, 1001))
        paid = costs.of_message(route.name, more) - costs.of_message(route.name, few)
        assert paid == pytest.approx(1000 * next(iter(declared.values())))
    assert RATES.per_s * costs.REQUEST_S <= SHARE
    assert RATES.per_s * BURST_S * costs.REQUEST_S <= ONE_MESSAGE_S


def _message(route: str, n: int) -> object:
    if route == "submit":
        return m.Submit(request_id="r", jobs=tuple(job(f"j{nr}") for nr in range(n)))
    if route == "add_items":
        return m.AddItems(list="l", first=0, items=(ItemSpec(),) * n)
    if route == "add_points":
        return m.AddPoints(task_id=1, step="s", points=({"x": 0.0},) * n)
    kinds = {"retry": m.Retry, "reregister": m.Reregister, "cancel": m.Cancel, "wait": m.WaitJobs}
    many = {"cancel_many": m.CancelMany, "retry_many": m.RetryMany, "change_many": m.ChangeMany}
    ids = tuple(range(1, n + 1))
    if route in many:
        more = {"verb": "hold"} if route == "change_many" else {}
        return many[route](request_id="r", job_ids=ids, **more)
    return kinds[route](job_ids=ids)


@pytest.mark.field("A9")
def test_what_jobs_wait_for_is_charged():
    ask = m.Submit(request_id="r", jobs=(job("a", depends_on=tuple(range(1, 9001))),))
    assert costs.of_message("submit", ask) == pytest.approx(costs.JOB_S + 9000 * costs.LINK_S)


def test_files_of_items_are_charged():
    files = tuple(InputFile(name=f"f{nr}", url="file:///a") for nr in range(1000))
    ask = m.AddItems(list="l", first=0, items=(ItemSpec(inputs=files),))
    paid = costs.of_message("add_items", ask)
    assert paid == pytest.approx(costs.ITEM_S + 1000 * costs.FILE_S)


@pytest.mark.field("A27")
@pytest.mark.parametrize(
    ("said", "cost"),
    [(b"0", 0.0), (b"1000", 1000 * costs.BYTE_S), (b"x", 0.0), (None, 2000 * costs.BYTE_S),
     (b"99999999", 2000 * costs.BYTE_S)],
)  # fmt: skip
def test_a_body_is_charged_before_it_is_read(said, cost):
    assert costs.of_body(said, 2000) == pytest.approx(cost)


# --- searches -------------------------------------------------------------------------------------

NOTHING = JobsQuery(name="no-such-job")


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(search, "FIRST", 10)
    monkeypatch.setattr(search, "WIDEST", 10)


@pytest.mark.field("A21")
def test_searches_without_a_hit_leave_a_reader_free_and_are_one_at_a_time(tmp_path, small_slices):
    async def test(b):
        await b.submit(*(job(f"j{nr}") for nr in range(400)))
        (theirs,) = await b.submit(caller=BOB)
        now, most, reads = 0, 0, 0
        read = b.service.store.read

        async def counted(query):
            nonlocal now, most, reads
            searching = "_slice" in query.__code__.co_names
            now, reads = now + searching, reads + searching
            most = max(most, now)
            try:
                return await read(query)
            finally:
                now -= searching

        b.service.store.read = counted
        begun = [asyncio.create_task(b.service.users.jobs(NOTHING, ALICE)) for _ in range(16)]
        await asyncio.sleep(0)
        await b.service.users.show(None, BOB, job_id=theirs)
        assert reads < 16 * 40  # it came between
        pages = await asyncio.gather(*begun)
        assert not any(page.jobs or page.next for page in pages)
        assert (most, reads) == (1, 16 * 41)

    run(test, tmp_path)


@pytest.mark.field("A21")
def test_a_long_search_hands_over_what_it_has_and_where_it_was(tmp_path, small_slices, monkeypatch):
    monkeypatch.setattr(search, "SEARCH_S", 0.0)

    async def test(b):
        (wanted,) = await b.submit(job("wanted"))
        await b.submit(*(job(f"j{nr}") for nr in range(95)))
        found, before, asked = [], None, 0
        while asked == 0 or before is not None:
            page = await b.service.users.jobs(JobsQuery(name="wanted", before=before), ALICE)
            found += page.jobs
            before, asked = page.next, asked + 1
        assert [row.job_id for row in found] == [wanted]
        assert asked == 10

    run(test, tmp_path)


@pytest.mark.field("A21")
def test_a_label_of_many_jobs_is_counted_as_far_as_the_time_allows(
    place, small_slices, monkeypatch
):
    monkeypatch.setattr(search, "SEARCH_S", 0.0)

    async def test(b):
        await b.submit(*(job(f"j{nr}", labels={"of": "all"}) for nr in range(25)))
        counted = await b.service.users.count(Filter(query="label:of=all"), ALICE)
        assert (counted.jobs, counted.cut) == (10, True)

    run(test, place)


@pytest.mark.field("A21")
@pytest.mark.parametrize(
    "state",
    ["", "activated", "running", "activated,running,finished", "activated,running,activated"],
)
def test_a_list_in_slices_is_the_list(place, small_slices, state):
    async def test(b):
        worker = await b.worker()
        await b.submit(*(job(f"j{nr}", priority=nr % 7) for nr in range(45)))
        got = await worker.acquire(16)
        await worker.beat(*got[:8])
        for one in got[8:12]:
            await worker.report(one)
        seen, before = [], None
        while True:
            page = await b.service.users.jobs(JobsQuery(state=state, limit=7, before=before), ALICE)
            seen += [(row.job_id, row.state) for row in page.jobs]
            if (before := page.next) is None:
                break
        states = state.split(",") if state else list(JobState)
        rows = await b.service.store.read(lambda tx: _all_states(tx, range(1, 46)))
        assert seen == [one for one in reversed(rows) if one[1] in states]

    run(test, place)


def _all_states(tx, ids):
    return [(one, tx.one("job.standing", job_id=one)[0]) for one in ids]


@pytest.mark.field("A21")
def test_what_the_store_is_read_for_is_charged_to_who_asked(tmp_path):
    async def main():
        async with bench(tmp_path) as b:
            await b.submit(*(job(f"j{nr}") for nr in range(2000)))
            limiter = Limiter(RATES, lambda: 0.0)
            limiter.ask("alice")
            before = limiter._account("alice").left
            with limiter.metered("alice"):
                await b.service.users.jobs(NOTHING, ALICE)
            assert limiter._account("alice").left < before
            assert METER.get() is None

    asyncio.run(main())


@pytest.mark.field("A21")
@pytest.mark.parametrize("gone", [False, True], ids=["who waits", "who hangs up"])
def test_a_user_is_read_for_once_at_a_time_whatever_is_asked(tmp_path, gone):
    """A hundred dear questions are let in before the first one is paid for: others come between
    them."""

    async def test(b):
        limiter, now, most, stopped = Limiter(RATES), 0, 0, threading.Event()

        def dear(tx) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            stopped.wait(10)
            now -= 1

        async def asks(subject, query):
            with limiter.metered(subject):
                return await b.service.store.read(query)

        try:
            begun = [asyncio.create_task(asks("alice", dear)) for _ in range(20)]
            await eventually(lambda: now)
            if gone:
                begun[0].cancel()
            assert await asyncio.wait_for(asks("bob", lambda tx: tx.one("job.range")), 5)
        finally:
            stopped.set()
        await asyncio.gather(*begun, return_exceptions=True)
        assert most == 1

    run(test, tmp_path)


@pytest.mark.field("A21")
def test_what_an_answer_is_long_for_is_charged_too(dispatcher):
    door = dispatcher
    rates = Rates(per_s=1.0)
    door.app = App(door.service.handlers(), door.issuer, DoorSettings(limiter=Limiter(rates)))
    token = door.token(Scope.READ, Scope.CREATE, subject="alice")
    url = f"http://h/{'a' * 1900}"
    inputs = [{"name": f"i{nr}", "url": url} for nr in range(500)]
    spec = {"name": "j", "command": "true", "inputs": inputs}
    made = door.ask("POST", "/jobs", {"request_id": "r", "jobs": [spec]}, token=token)
    account = door.app.limiter._account("alice")
    before = account.left = rates.per_s * BURST_S
    answer = door.ask("GET", f"/jobs/{made.json['job_ids'][0]}", token=token)
    assert before - account.left > costs.BYTE_S * len(answer.body) / costs.REQUEST_S


# --- waits ----------------------------------------------------------------------------------------


@pytest.mark.field("A27")
def test_a_wait_for_many_jobs_holds_one_of_them(tmp_path):
    async def test(b):
        ids = await b.submit(*(job(f"j{nr}") for nr in range(300)))
        worker = await b.worker()
        waits = [
            asyncio.create_task(
                b.service.users.wait(m.WaitJobs(job_ids=tuple(ids), timeout_s=60), ALICE)
            )
            for _ in range(20)
        ]
        await eventually(lambda: sum(map(len, b.service.hub._jobs.values())) == 20)
        assert len(b.service.hub._jobs) == 1
        while got := await worker.acquire(16):
            for one in reversed(got):
                await worker.report(one)
        answers = await asyncio.gather(*waits)
        assert all(set(one.states.values()) == {JobState.FINISHED} for one in answers)
        assert not b.service.hub._jobs

    run(test, tmp_path)


@pytest.mark.field("A27")
def test_who_is_refused_or_gone_leaves_nothing_that_waits(tmp_path):
    async def test(b):
        (mine,) = await b.submit()
        with pytest.raises(Exception, match="there is no job"):
            await b.service.users.wait(m.WaitJobs(job_ids=(mine,), timeout_s=60), BOB)
        await eventually(lambda: not b.service.hub._jobs)
        waits = asyncio.create_task(
            b.service.users.wait(m.WaitJobs(job_ids=(mine,), timeout_s=60), ALICE)
        )
        await eventually(lambda: b.service.hub._jobs)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await eventually(lambda: not b.service.hub._jobs)

    run(test, tmp_path)


@pytest.mark.field("A27")
def test_all_waits_of_a_user_name_a_bounded_number_of_jobs():
    limiter = Limiter(Rates(watched=100))
    with limiter.holding("alice", 60):
        with pytest.raises(TooMuch), limiter.holding("alice", 60):
            pass
        with limiter.holding("alice", 40), limiter.holding("bob", 100):
            pass
    with limiter.holding("alice", 100):
        pass
    assert not limiter._watched


# --- PanDA's door ---------------------------------------------------------------------------------


@pytest.fixture
def panda(some_keys, tmp_path):
    made = Dispatcher(tmp_path, some_keys, PandaSettings(open_queues=frozenset({"q"})))
    made.service.state.limiter = limiter = Limiter(Rates(per_s=1.0))
    settings = DoorSettings(panda=made.app._panda, limiter=limiter)
    made.app = App(made.service.handlers(), made.issuer, settings)
    yield made
    made.close()


@pytest.mark.field("A27")
def test_pandas_door_has_the_same_account_as_ours(panda):
    user = panda.token(Scope.READ, subject="alice")

    def asked(token):
        return panda.ask("/api/v1/job/get_status", {"job_ids": [1]}, token=token).status

    assert [asked(user) for _ in range(12)].count(429) > 0
    overview = panda.raw("GET", "/api/ailurus/v1/overview", token=user)
    assert overview.status == 429
    assert {asked(panda.pilot) for _ in range(20)} == {200}


@pytest.mark.field("A27")
def test_who_shows_no_token_has_the_account_of_the_address(panda):
    ask = {"site_name": "q"}
    answers = [panda.ask("/api/v1/pilot/acquire_jobs", ask, token=None).status for _ in range(12)]
    assert (answers[0], answers[-1]) == (200, 429)


# --- what a message may hold ----------------------------------------------------------------------

FREE = re.compile(r"\^(\((\w+)(\|\w+)*\)|\[0-9a-f\]\{\d+\})\(")
"""A pattern that is a choice of words, or so many digits, is a length, too."""


def unbounded(kind: inspect.Type, path: str) -> Iterator[str]:
    """The places in a message that may hold any number of things."""
    match kind:
        case inspect.Metadata(type=inner):
            yield from unbounded(inner, path)
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from unbounded(field.type, f"{path}.{field.name}")
        case inspect.UnionType(types=types):
            for one in types:
                yield from unbounded(one, path)
        case inspect.VarTupleType(max_length=None) | inspect.ListType(max_length=None):
            yield path
        case inspect.DictType(max_length=None):
            yield path
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            yield from unbounded(item, f"{path}[]")
        case inspect.DictType(key_type=key, value_type=value):
            yield from unbounded(key, f"{path}{{key}}")
            yield from unbounded(value, f"{path}{{}}")
        case inspect.StrType(max_length=None, pattern=pattern):
            if not (pattern and FREE.match(pattern)):
                yield path


@ITEM7
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_no_field_of_any_message_may_hold_any_number_of_things(route):
    assert list(unbounded(inspect.type_info(route.ask), route.name)) == []
