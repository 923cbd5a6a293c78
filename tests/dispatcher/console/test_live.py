"""The stream behind every page: one question for all, snapshots for those who join."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.api import (
    EventsQuery,
    JobsQuery,
    LogQuery,
    Samples,
    Scope,
    StreamQuery,
    WorkerRows,
)
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import JobState
from ailurus.tasks import Tasks
from dispatcher.accounts.meter import METER
from dispatcher.auth.caller import Caller
from dispatcher.console import live as live_module
from dispatcher.console.live import BEHIND, Live
from dispatcher.events import Handled, StateChanged
from dispatcher.refusal import Rejected

ADMIN = Caller(subject="root", scopes=frozenset({Scope.READ, Scope.ADMIN}))
ALICE = Caller(subject="alice", scopes=frozenset({Scope.READ}))
BOB = Caller(subject="bob", scopes=frozenset({Scope.READ}))


class Service:
    """The part of the service that pages look at; job N is alice's."""

    def __init__(self) -> None:
        self.loops = Tasks(Log("test"))
        self.asked: Counter[str] = Counter()
        self.told: list[m.Event] = []
        self.states = {1: JobState.RUNNING, 2: JobState.ACTIVATED}
        self.lines = ["hello\n"]
        self.seq = 0

    @property
    def hub(self) -> Service:
        return self

    users = figures = hub

    def tell(self, job_id: int, state: JobState, attempt_nr: int = 1) -> None:
        self.seq += 1
        self.states[job_id] = state
        event = StateChanged(
            state=state, old=JobState.SENT, queue="secret", shape_id=1, attempt_nr=attempt_nr
        )
        data = msgspec.to_builtins(event)
        self.told.append(m.Event(seq=self.seq, at=5.0, kind="state", job_id=job_id, data=data))

    def _row(self, job_id: int) -> m.JobRow:
        return m.JobRow(
            job_id=job_id,
            name="x",
            queue="q",
            user="alice",
            state=self.states[job_id],
            attempt_nr=1,
            priority=0,
            created=1.0,
            changed=2.0,
        )

    def _mine(self, caller: Caller, job_id: int) -> None:
        if job_id not in self.states or not caller.owns("alice"):
            raise Rejected(404, "no such job")

    async def overview(self, ask: object, caller: Caller) -> m.Overview:
        self.asked["overview"] += 1
        states = Counter(str(state) for state in self.states.values() if caller.owns("alice"))
        return m.Overview(
            now=9.0,
            version="1",
            states=dict(states),
            queues=(),
            workers={},
            finished_per_min=0,
            failed_per_min=0,
        )

    async def events(self, ask: EventsQuery, caller: Caller) -> m.Events:
        self.asked["events"] += 1
        assert caller.may(Scope.ADMIN)
        found = tuple(event for event in self.told if event.seq > ask.after)[: ask.limit]
        return m.Events(events=found, last=found[-1].seq if found else ask.after)

    async def jobs(self, ask: JobsQuery, caller: Caller) -> m.JobPage:
        self.asked["jobs"] += 1
        return m.JobPage(jobs=tuple(self._row(n) for n in self.states if caller.owns("alice")))

    async def workers(self, ask: object, caller: Caller) -> WorkerRows:
        return WorkerRows(workers=())

    async def show(self, ask: object, caller: Caller, *, job_id: int) -> m.JobDetail:
        self._mine(caller, job_id)
        self.asked["show"] += 1
        return m.JobDetail(row=self._row(job_id), spec=JobSpec(name="x", command="true"))

    async def why(self, ask: object, caller: Caller, *, job_id: int) -> m.Why:
        return m.Why(job_id=job_id, state=self.states[job_id], verdict="runs", sentence="It runs.")

    async def samples(self, ask: object, caller: Caller, *, job_id: int) -> Samples:
        return Samples(samples=())

    async def log(self, ask: LogQuery, caller: Caller, *, job_id: int) -> m.LogChunk:
        self._mine(caller, job_id)
        self.asked["log"] += 1
        text = "".join(self.lines) if ask.stream == "stdout" else ""
        offset = max(0, ask.offset)
        while offset >= len(text):
            await asyncio.sleep(0.01)
            text = "".join(self.lines) if ask.stream == "stdout" else ""
        return m.LogChunk(offset=offset, end=len(text), text=text[offset:])


Pages = Callable[..., Awaitable["Reader"]]


class Reader:
    """A page: what it has been told so far."""

    def __init__(self, stream: AsyncGenerator[bytes, None]) -> None:
        self.stream = stream
        self.raw = b""

    async def read(self) -> Reader:
        self.raw += await asyncio.wait_for(anext(self.stream), 5)
        return self

    async def until(self, kind: str, wanted: Callable[[Any], bool]) -> Any:
        while True:
            for found in self.said(kind):
                if wanted(found):
                    return found
            await self.read()

    def said(self, kind: str) -> list[Any]:
        blocks = [block.split("\n") for block in self.raw.decode().split("\n\n")]
        return [
            json.loads(lines[-1].removeprefix("data: "))
            for lines in blocks
            if f"event: {kind}" in lines
        ]


def run(test: Callable[[Service, Live, Pages], Awaitable[None]]) -> None:
    async def inside() -> None:
        service = Service()
        live = Live(service)
        opened: list[Reader] = []

        async def page(topics: str, caller: Caller = ADMIN) -> Reader:
            opened.append(Reader(live.stream(StreamQuery(topics=topics), caller)))
            return await opened[-1].read()

        await test(service, live, page)
        for reader in opened:
            await reader.stream.aclose()
        assert not live._feeds
        assert not live._channels
        live.close()

    asyncio.run(inside())


def test_a_page_gets_a_snapshot_first_and_then_what_changes():
    async def test(service: Service, live: Live, page: Pages) -> None:
        reader = await page("overview")
        assert reader.raw.startswith(b"retry: 2000\n\n")
        assert reader.said("overview")[0]["states"] == {"running": 1, "activated": 1}
        service.tell(1, JobState.FINISHED)
        await reader.until("overview", lambda seen: seen["states"].get("finished") == 1)

    run(test)


def test_a_thousand_pages_cost_one_question():
    async def test(service: Service, live: Live, page: Pages) -> None:
        readers = [await page("overview,jobs") for _ in range(1000)]
        before = service.asked.copy()
        service.tell(1, JobState.FINISHED)
        for reader in readers:
            await reader.until("overview", lambda seen: "finished" in seen["states"])
        assert service.asked["overview"] - before["overview"] <= 2
        assert service.asked["events"] - before["events"] == 1

    run(test)


def test_a_job_that_somebody_moves_is_seen_in_its_new_queue():
    async def test(service: Service, live: Live, page: Pages) -> None:
        reader = await page("jobs")
        event = Handled(by="alice", verb="move", action=1, old="q", new="other")
        service.seq += 1
        data = msgspec.to_builtins(event)
        service.told.append(m.Event(seq=service.seq, at=5.0, kind="handled", job_id=2, data=data))
        await reader.until("jobs", lambda said: {"job_id": 2, "queue": "other"} in said["changes"])

    run(test)


def test_many_changes_come_in_few_frames():
    async def test(service: Service, live: Live, page: Pages) -> None:
        reader = await page("jobs")
        for _ in range(5):
            for job_id in range(100):
                service.tell(job_id, JobState.RUNNING)
            await asyncio.sleep(0.1)
        service.tell(7, JobState.FINISHED)
        await reader.until(
            "jobs", lambda said: any(c["state"] == "finished" for c in said["changes"])
        )
        assert len(reader.said("jobs")) <= 5

    run(test)


def test_a_viewer_hears_of_own_jobs_only():
    async def test(service: Service, live: Live, page: Pages) -> None:
        alice, bob = await page("jobs", ALICE), await page("jobs,overview", BOB)
        boss = await page("overview")
        service.tell(1, JobState.FINISHED)
        said = await alice.until("jobs", lambda said: said["changes"])
        assert [row["job_id"] for row in said["changes"]] == [1]
        await boss.until("overview", lambda seen: "finished" in seen["states"])
        assert [said["changes"] for said in bob.said("jobs")] == [[]]
        for topic in ("job:1", "log:1", "job:99"):
            with pytest.raises(Rejected, match="no such job"):
                await page(topic, BOB)

    run(test)


@pytest.mark.field("H11")
def test_each_user_gets_an_overview_of_own_jobs():
    async def test(service: Service, live: Live, page: Pages) -> None:
        seen = [(await page("overview", who)).said("overview")[0] for who in (ADMIN, ALICE, BOB)]
        all_ = {"running": 1, "activated": 1}
        assert [one["states"] for one in seen] == [all_, all_, {}]

    run(test)


@pytest.mark.parametrize(
    "topics",
    ["", "nonsense", "job", "job:", "job:x", "job:-1", "job:٣", "overview:1", "log:" + "9" * 30],
)
def test_an_unknown_topic_is_refused_before_the_first_byte(topics: str):
    async def test(service: Service, live: Live, page: Pages) -> None:
        with pytest.raises(Rejected) as refused:
            await page(topics)
        assert (refused.value.status, refused.value.field) == (422, "topics")

    run(test)


def test_a_log_comes_live_and_whoever_joins_gets_what_was():
    async def test(service: Service, live: Live, page: Pages) -> None:
        first = await page("log:1")
        await first.until("log", lambda chunk: chunk["text"] == "hello\n")
        service.lines.append("more\n")
        await first.until("log", lambda chunk: (chunk["offset"], chunk["text"]) == (6, "more\n"))
        second = await page("log:1")
        assert "".join(chunk["text"] for chunk in second.said("log")) == "hello\nmore\n"
        assert second.said("log")[0]["stream"] == "stdout"

    run(test)


def test_no_text_can_end_a_frame_early():
    async def test(service: Service, live: Live, page: Pages) -> None:
        service.lines[0] = "a\n\nevent: overview\ndata: {}\n\r\n"
        reader = await page("log:1")
        chunk = await reader.until("log", lambda chunk: True)
        assert chunk["text"] == service.lines[0]
        assert reader.said("overview") == []

    run(test)


def test_a_page_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live_module, "PERIOD_S", 0.005)

    async def test(service: Service, live: Live, page: Pages) -> None:
        slow, quick = await page("jobs"), await page("jobs,overview")
        for _ in range(BEHIND + 20):
            service.tell(1, JobState.RUNNING)
            await quick.read()
        async with asyncio.timeout(5):
            async for _ in slow.stream:
                pass  # what it had not read yet; then the end
        service.tell(1, JobState.FAILED)
        await quick.until("overview", lambda seen: "failed" in seen["states"])

    run(test)


def test_a_stream_ends_with_its_token(monkeypatch: pytest.MonkeyPatch):
    async def test(service: Service, live: Live, page: Pages) -> None:
        gone = Caller(subject="root", scopes=ADMIN.scopes, expires=1.0)
        reader = await page("overview", gone)
        service.tell(1, JobState.FINISHED)
        with pytest.raises(StopAsyncIteration):
            await anext(reader.stream)

    run(test)


def test_a_silent_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live_module, "HEARTBEAT_S", 0.3)

    async def test(service: Service, live: Live, page: Pages) -> None:
        reader = await page("jobs")
        await reader.until("beat", lambda beat: beat["now"] > 0)
        assert b": beat\n" in reader.raw

    run(test)


def test_what_one_user_looks_at_keeps_no_other_waiting_and_nothing_is_missed(monkeypatch):
    """Eight pages on jobs with ten thousand long inputs: others' frames came 25 s late."""
    show = Service.show

    async def dear(self: Service, ask: object, caller: Caller, *, job_id: int) -> m.JobDetail:
        if (meter := METER.get()) is not None:
            meter.seconds += 60.0
        return await show(self, ask, caller, job_id=job_id)

    monkeypatch.setattr(Service, "show", dear)

    async def test(service: Service, live: Live, page: Pages) -> None:
        alice, boss = await page("job:1", ALICE), await page("jobs")

        async def shown(state: JobState) -> None:
            await alice.until("job", lambda seen: seen["detail"]["row"]["state"] == state)

        def told(seen: Any) -> bool:
            return any(change.get("state") == "finished" for change in seen["changes"])

        service.tell(1, JobState.HOLDING)
        await shown(JobState.HOLDING)
        before = service.asked["show"]
        service.tell(1, JobState.FINISHED)
        await boss.until("jobs", told)
        service.tell(2, JobState.CANCELLED)
        await boss.read()
        assert service.asked["show"] == before
        live._rests.clear()
        await shown(JobState.FINISHED)

    run(test)
