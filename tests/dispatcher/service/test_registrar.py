"""Outputs become known to the catalogue of data, each once, whatever happens in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.did import Did, physical
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import OutputFile
from dispatcher.catalogue import messages, settings
from dispatcher.catalogue.settings import CatalogueSettings
from dispatcher.ports import CatalogueUnavailable, Fault, NewFile
from dispatcher.refusal import Rejected
from dispatcher.service import Service
from tests.dispatcher.helpers import ALICE, BOB, Bench, bench, job
from tests.rig.catalogue import InMemory

SCOPES = CatalogueSettings(kind="rucio", scopes={"user.{user}": ("*",), "mc": ("bob",)})
HITS = OutputFile(name="hits", scope="user.alice", dataset="user.alice:all", lifetime_s=60)
BARE = OutputFile(name="bare", scope="user.alice")


class Place(Bench):
    """A service with a catalogue; its loop is moved by hand."""

    def __init__(self, service: Service, catalogue: InMemory) -> None:
        super().__init__(service)
        self.catalogue = catalogue

    async def turn(self) -> bool:
        return await self.service.registrar.turn()

    async def finish(self, one: m.RawAssignment, worker, *names: str, **more: object) -> str:
        return await worker.report(one, files=done(one, *(names or ("hits",))), **more)

    async def file(self, job_id: int, name: str = "hits") -> m.FileRecord:
        shown = await self.service.users.show(None, ALICE, job_id=job_id)
        return next(file for file in shown.files if file.name == name)

    async def events(self, job_id: int) -> list[str]:
        return [event.kind for event in await self.told() if event.job_id == job_id]


def did_of(one: m.RawAssignment, name: str = "hits") -> str:
    return str(physical("user.alice", one.job_id, one.attempt_nr, name, one.mark))


def done(one: m.RawAssignment, *names: str, rse: str = "SITE") -> tuple[m.DoneFile, ...]:
    return tuple(
        m.DoneFile(
            name=name,
            url=Did.parse(did_of(one, name)).url(rse).text,
            size=7,
            adler32="0000abcd",
        )
        for name in names
    )


@pytest.fixture
def at(place):
    """Opens a service with a catalogue, on the same store each time."""
    catalogue = InMemory()

    @asynccontextmanager
    async def opened():
        async with bench(place, catalogue=SCOPES) as one:
            one.service.registrar._ask = catalogue.ask
            yield Place(one.service, catalogue)

    return opened


async def test_an_output_is_registered_when_its_job_has_finished(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS, BARE)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.turn()
        assert b.catalogue.files == {}
        await b.finish(one, worker, "hits", "bare")
        assert (await b.file(job_id)).registration == "due"
        await b.turn()
        did = did_of(one)
        known = b.catalogue.files[did]
        assert (known.rse, known.size, known.adler32, known.lifetime_s) == (
            "SITE",
            7,
            "0000abcd",
            60,
        )
        assert b.catalogue.datasets == {"user.alice:all": [did]}
        assert b.catalogue.rules == [
            f"{one.mark}.{job_id}.1.bare at SITE",
            "user.alice:all at SITE",
        ]
        assert (await b.file(job_id)).registration == "done"
        assert "registered" in await b.events(job_id)


async def test_a_pilot_of_an_older_version_names_its_outputs_without_the_store(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.finish(msgspec.structs.replace(one, mark=""), worker)
        await b.turn()
        assert list(b.catalogue.files) == [f"user.alice:{job_id}.1.hits"]
        assert (await b.file(job_id)).registration == "done"


async def test_an_output_with_the_mark_of_another_store_is_refused(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.finish(msgspec.structs.replace(one, mark="abcdefgh"), worker)
        await b.turn()
        assert b.catalogue.files == {}
        assert (await b.file(job_id)).registration == "refused"


async def test_a_loser_registers_nothing(at):
    async with at() as b:
        await b.submit(job(outputs=(HITS,), max_attempts=3))
        first, second = await b.worker(), await b.worker()
        (one,) = await first.acquire()
        await first.report(one, finished=False, code=1305, files=done(one, "hits"))
        (two,) = await second.acquire()
        await b.finish(two, second)
        await first.report(one, files=done(one, "hits"))
        await b.turn()
        assert list(b.catalogue.files) == [did_of(two)]


async def test_a_data_set_is_closed_after_the_last_job_that_writes_to_it(at):
    async with at() as b:
        await b.submit(job("a", outputs=(HITS,)), job("b", outputs=(HITS,)), job("c"))
        worker = await b.worker()
        one, two, three = await worker.acquire(3)
        await b.finish(one, worker)
        await b.turn()
        assert b.catalogue.open == {"user.alice:all"}
        await worker.report(two, finished=False, code=1305)
        await b.turn()
        assert b.catalogue.open == set()
        assert "dataset_closed" in [event.kind for event in await b.told()]
        await worker.report(three)


async def test_a_data_set_with_a_refused_file_stays_open_until_it_is_retried(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.finish(one, worker)
        did = did_of(one)
        b.catalogue.open.add("user.alice:all")
        b.catalogue.refuse[did] = Fault(key=0, reason="no quota", remedy="ask for more")
        await b.turn()
        file = await b.file(job_id)
        assert (file.registration, file.reason, file.remedy) == (
            "refused",
            "no quota",
            "ask for more",
        )
        why = await b.service.users.why(None, ALICE, job_id=job_id)
        assert "refused 1 of its 1 outputs" in why.sentence
        assert why.blockers == ("hits: no quota",)
        assert why.remedy == "ask for more"
        assert b.catalogue.open == {"user.alice:all"}
        ask = m.Reregister(job_ids=(job_id,))
        with pytest.raises(Rejected):
            await b.service.registrar.reregister(ask, BOB)
        b.catalogue.refuse.clear()
        assert (await b.service.registrar.reregister(ask, ALICE)).files == 1
        await b.turn()
        assert (await b.file(job_id)).registration == "done"
        assert b.catalogue.open == set()


async def test_what_may_go_well_later_is_tried_later(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.finish(one, worker)
        did = did_of(one)
        b.catalogue.refuse[did] = Fault(key=0, reason="locked", transient=True)
        await b.turn()
        await b.turn()
        assert b.catalogue.told == [did]
        assert (await b.file(job_id)).registration == "due"
        why = await b.service.users.why(None, ALICE, job_id=job_id)
        assert "not in the catalogue yet" in why.sentence


async def test_a_catalogue_that_is_away_delays_and_loses_nothing(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.finish(one, worker)
        b.catalogue.away = "connection refused"
        for _ in range(3):
            with pytest.raises(CatalogueUnavailable):
                await b.turn()
    async with at() as b:
        b.catalogue.away = ""
        await b.turn()
        assert (await b.file(job_id)).registration == "done"


async def test_a_catalogue_that_was_away_for_ten_minutes_is_asked_at_least_each_minute(
    at, monkeypatch
):
    """Ten minutes of the loop's own pauses, which pass at once."""
    pauses: list[float] = []
    at_once = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if sum(pauses) >= 600:
            b.catalogue.away = ""
        await at_once(0)

    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.finish(one, worker)
        b.catalogue.away = "connection refused"
        monkeypatch.setattr(asyncio, "sleep", sleep)
        loop = Loop("catalogue", None, time.monotonic)
        running = asyncio.ensure_future(b.service.registrar._run(loop))
        while (await b.file(job_id)).registration != "done":
            assert not running.done()
        running.cancel()
    assert 600 <= sum(pauses) < 660
    assert max(pauses) == 60


async def finished(b: Place, count: int) -> tuple[int, list[str]]:
    """A job that has left so many outputs, and their names."""
    names = [f"o{nr:02}" for nr in range(count)]
    outputs = tuple(OutputFile(name=name, scope="user.alice") for name in names)
    (job_id,) = await b.submit(job(outputs=outputs))
    worker = await b.worker()
    (one,) = await worker.acquire()
    await b.finish(one, worker, *names)
    return job_id, names


async def turns(b: Place, count: int) -> None:
    """So many, of which the catalogue may be away in any."""
    for _ in range(count):
        with suppress(CatalogueUnavailable):
            await b.turn()


def silent_about(b: Place, odd: Callable[[Sequence[NewFile]], bool]):
    """A catalogue that has no answer about such files."""

    async def ask(request: messages.Request) -> messages.Answer:
        if isinstance(request, messages.Register) and odd(request.files):
            return messages.NotNow(reason="the catalogue has not answered for 300 s")
        return await b.catalogue.ask(request)

    return ask


async def test_a_catalogue_that_answers_about_few_files_only_is_asked_about_few(at):
    async with at() as b:
        job_id, names = await finished(b, 20)
        b.service.registrar._ask = silent_about(b, lambda files: len(files) > 3)
        await turns(b, 20)
        assert {(await b.file(job_id, name)).registration for name in names} == {"done"}


async def test_a_file_about_which_the_catalogue_never_answers_delays_no_other(at):
    async with at() as b:
        job_id, names = await finished(b, 6)
        b.service.registrar._ask = silent_about(
            b, lambda files: any(file.name.endswith((".o00", ".o03")) for file in files)
        )
        await turns(b, 15)
        due = [name for name in names if (await b.file(job_id, name)).registration == "due"]
        assert due == ["o00", "o03"]
        assert "no answer about it" in (await b.file(job_id, "o00")).reason
        b.service.registrar._ask = b.catalogue.ask
        now = b.service.state.now
        b.service.state.now = lambda: now() + 700
        await turns(b, 3)
        assert {(await b.file(job_id, name)).registration for name in names} == {"done"}


async def test_a_dispatcher_killed_before_it_wrote_that_it_registered_does_so_again(at):
    async with at() as b:
        await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await b.finish(one, worker)

        async def dies(request):
            await b.catalogue.ask(request)
            raise asyncio.CancelledError

        b.service.registrar._ask = dies
        with pytest.raises(asyncio.CancelledError):
            await b.turn()
    async with at() as b:
        await b.turn()
        did = did_of(one)
        assert b.catalogue.told == [did, did]
        assert b.catalogue.datasets == {"user.alice:all": [did]}
        assert len(b.catalogue.rules) == 1


async def test_a_file_that_its_pilot_left_elsewhere_is_refused_with_a_reason(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        await worker.report(one, files=done(one, "hits", rse=""))
        file = await b.file(job_id)
        assert file.registration == "refused"
        assert "not as user.alice" in file.reason
        await b.turn()
        assert b.catalogue.told == []


async def test_outputs_that_a_pilot_left_elsewhere_altogether_are_refused_with_a_reason(at):
    async with at() as b:
        (job_id,) = await b.submit(job(outputs=(HITS,)))
        worker = await b.worker()
        (one,) = await worker.acquire()
        (file,) = done(one, "hits")
        left = (msgspec.structs.replace(file, url="https://else.where/hits"),)
        await worker.report(one, files=left)
        file = await b.file(job_id)
        assert file.registration == "refused"
        assert "https://else.where/hits" in file.reason


async def test_nobody_writes_to_a_scope_that_is_not_his(at):
    async with at() as b:
        for output, field in (
            (OutputFile(name="x", scope="mc"), "scope"),
            (OutputFile(name="x", scope="user.alice", dataset="mc:all"), "dataset"),
        ):
            with pytest.raises(Rejected) as refused:
                await b.submit(job(outputs=(output,)))
            assert refused.value.status == 403
            assert refused.value.field == f"jobs[0].outputs[0].{field}"
        await b.submit(job(outputs=(OutputFile(name="x", scope="mc"),)), caller=BOB)


async def test_without_a_catalogue_no_output_goes_to_rucio(b):
    with pytest.raises(Rejected) as refused:
        await b.submit(job(outputs=(HITS,)))
    assert "no catalogue" in str(refused.value)


def test_the_file_of_the_catalogue_is_read_with_its_faults_named(tmp_path: Path):
    file = tmp_path / "catalogue.yaml"
    file.write_text(
        "kind: rucio\noptions: {config: /x}\nscopes: {'user.{user}': ['*'], mc: [ann]}\n"
    )
    read = settings.read(file)
    assert read.may_write("ann", "user.ann")
    assert not read.may_write("iam:ann", "user.iam_ann")  # whose it would be, too
    assert not read.may_write("ann", "user.{user}")
    assert not read.may_write("bob", "mc")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kind: rucio\nscope: {}\n", "scope: no such field"),
        ("kind: rucoi\nscopes: {}\n", "kind: no catalogue plugin is called 'rucoi'"),
        ("kind: rucio\nscopes: {}\n", "options.config: missing"),
        ("kind: rucio\noptions: {config: /x, user: y}\nscopes: {}\n", "options.user: no such"),
    ],
)
def test_a_fault_in_the_file_of_the_catalogue_is_said_before_anything_starts(
    tmp_path: Path, text: str, fault: str
):
    file = tmp_path / "catalogue.yaml"
    file.write_text(text)
    with pytest.raises(AilurusError) as found:
        settings.read(file)
    assert str(file) in str(found.value)
    assert fault in str(found.value)
