"""Steps over data sets of a catalogue, and the carousel: files are staged before there are jobs for
them, within a cap, and let go of after."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import msgspec
import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.task import TaskState, Verb
from dispatcher.catalogue import messages
from dispatcher.catalogue.settings import CatalogueSettings
from dispatcher.refusal import Rejected
from dispatcher.service import task_files
from dispatcher.service import tasks as service
from dispatcher.tasks import inputs
from plugins.catalogue import local
from tests.dispatcher.helpers import ALICE, bench
from tests.dispatcher.tasks.test_tasks import Tasks, step

RAW = {"dataset": "rucio://user.alice:raw"}
SETTINGS = CatalogueSettings(kind="local", scopes={}, staging={"DISK": ("alice",)})


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    monkeypatch.setattr(service.Tasks, "start", lambda self: None)
    monkeypatch.setattr(task_files, "LOOK_S", 0.0)


class Shelf:
    """A local catalogue with a tape whose files come when the test says so."""

    def __init__(self, folder) -> None:
        self.folder, self.files = folder, []
        self.options = local.LocalOptions(
            directory=str(folder / "catalogue"),
            storages={"TAPE": str(folder / "tape"), "DISK": str(folder / "disk")},
        )
        self.catalogue = local.Local(self.options)

    def have(self, *names: str, growing: bool = False, on: str = "tape") -> None:
        for name in names:
            path = self.folder / on / "user.alice" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 10)
            self.files.append({"name": f"user.alice:{name}", "size": 10, "events": 5})
        path = self.folder / "catalogue" / "user.alice" / "raw.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode({"open": growing, "files": self.files}))

    async def ask(self, request):
        return messages.answer(self.catalogue, request)

    def rules(self) -> list[str]:
        return sorted(one.name for one in (self.folder / "catalogue").glob(".rules/DISK/*/*"))

    def on_disk(self) -> list[str]:
        return sorted(one.name for one in (self.folder / "disk").glob("*/*"))


@asynccontextmanager
async def at(place, shelf):
    async with bench(place, catalogue=SETTINGS) as b:
        b.service.tasks.files._ask = shelf.ask
        yield b, Tasks(b)


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


async def test_files_of_a_data_set_are_items_until_it_is_closed(place, shelf, monkeypatch):
    monkeypatch.setattr(inputs, "RELIST_S", 0.0)
    monkeypatch.setattr("dispatcher.service.task_files.TOGETHER", 2)
    shelf.have("a", "b", "c", growing=True)
    async with at(place, shelf) as (_, t):
        task = await t.submit(step("s", RAW, "read {item} {item.events}"))
        assert await t.work(task) == []
        await t.tasks.files.turn()
        assert await t.work(task) == ["read a 5", "read b 5", "read c 5"]
        row = await t.row(task)
        assert row.state is TaskState.RUNNING
        assert "user.alice:raw is open: more may come" in row.steps[0].sentence
        shelf.have("d")
        await t.tasks.files.turn()
        await t.tasks.files.turn()
        assert await t.work(task) == ["read d 5"]
        assert (await t.row(task)).state is TaskState.FINISHED


async def test_a_data_set_of_too_many_files_is_not_written_down_and_why_says_so(
    place, shelf, monkeypatch
):
    monkeypatch.setattr(inputs, "MOST_FILES", 3)
    monkeypatch.setattr("dispatcher.service.task_files.TOGETHER", 2)
    shelf.have(*"abcdefgh")
    async with at(place, shelf) as (_, t):
        task = await t.submit(step("s", RAW, "read {item}"))
        await t.tasks.files.turn()
        assert await t.work(task) == ["read a", "read b", "read c", "read d"]
        row = await t.row(task)
        assert row.state is TaskState.RUNNING
        assert "make several tasks" in row.steps[0].sentence


async def test_an_input_of_a_job_says_where_it_is(place, shelf):
    shelf.have("a")
    async with at(place, shelf) as (b, t):
        task = await t.submit(step("s", RAW, "read", job={"inputs": ["{item}"]}))
        await t.tasks.files.turn()
        await t.settled(task)
        (job,) = (await b.service.users.jobs(api.JobsQuery(), ALICE)).jobs
        spec = (await b.service.users.show(None, ALICE, job_id=job.job_id)).spec
        (file,) = spec.inputs
        assert (file.name, file.size) == ("a", 10)
        assert file.url == f"file://{shelf.folder}/tape/user.alice/a"


async def test_a_job_takes_files_up_to_so_many_bytes(place, shelf):
    shelf.have("a", "b", "c", "d", "e")
    async with at(place, shelf) as (_, t):
        task = await t.submit(step("s", RAW, "read {items}", by={"bytes": 25}))
        await t.tasks.files.turn()
        assert await t.work(task) == ["read a b", "read c d", "read e"]
        assert (await t.row(task)).state is TaskState.FINISHED


async def test_a_carousel_keeps_its_cap_and_lets_all_go(place, shelf):
    shelf.have(*(f"f{nr:02}" for nr in range(12)))
    async with at(place, shelf) as (_, t):
        gate = {"staged": "DISK", "files": 4, "bytes": "1kB"}
        task = await t.submit(step("s", RAW, "read {item}", gate=gate))
        read = []
        while (await t.row(task)).state is TaskState.RUNNING:
            await t.tasks.files.turn()
            assert len(shelf.rules()) <= 4
            on_disk = shelf.on_disk()
            assert len(on_disk) <= 4
            done = await t.work(task)
            assert {one.removeprefix("read ") for one in done} <= set(on_disk)
            read += done
        assert sorted(read) == [f"read f{nr:02}" for nr in range(12)]
        await t.tasks.files.turn()
        assert shelf.rules() == shelf.on_disk() == []


async def test_a_cap_of_bytes_lets_a_job_begin_with_what_there_is_room_for(place, shelf):
    shelf.have("a", "b", "c")
    async with at(place, shelf) as (_, t):
        gate = {"staged": "DISK", "bytes": 25}
        task = await t.submit(step("s", RAW, "read {items}", by=3, gate=gate))
        read = []
        for _ in range(6):
            await t.tasks.files.turn()
            read += await t.work(task)
        assert read == ["read a b", "read c"]


async def test_staging_that_stands_still_is_told(place, shelf):
    shelf.have("a")
    (shelf.folder / "tape/user.alice/a").unlink()
    async with at(place, shelf) as (b, t):
        task = await t.submit(step("s", RAW, gate={"staged": "DISK"}))
        for _ in range(3):
            await t.tasks.files.turn()
        now = b.service.state.now
        b.service.state.now = lambda: now() + 1200
        said = (await t.row(task)).steps[0].sentence
        assert "staging stands still for 20 minutes" in said
        assert "the rule for user.alice:a at DISK is STUCK: it lies in no other storage" in said
        shelf.have("a")
        await t.tasks.files.turn()
        assert await t.work(task) == ["true"]


async def test_what_failed_is_staged_again_for_a_retry(place, shelf):
    shelf.have("a", "bad", "c")
    async with at(place, shelf) as (_, t):
        task = await t.submit(step("s", RAW, "read {item}", gate={"staged": "DISK", "files": 1}))
        for _ in range(8):
            await t.tasks.files.turn()
            await t.work(task, bad="bad")
        await t.tasks.files.turn()
        row = await t.row(task)
        assert (row.state, row.steps[0].finished) == (TaskState.FAILED, 2)
        assert shelf.rules() == []
        await t.steer(task, Verb.RETRY)
        assert await t.work(task) == []
        await t.tasks.files.turn()
        await t.tasks.files.turn()
        assert await t.work(task) == ["read bad"]
        assert (await t.row(task)).state is TaskState.FINISHED
        await t.tasks.files.turn()
        assert shelf.rules() == []


async def test_a_cancelled_carousel_lets_go_and_goes_on_when_retried(place, shelf):
    shelf.have("a", "b", "c")
    async with at(place, shelf) as (_, t):
        task = await t.submit(step("s", RAW, "read {item}", gate={"staged": "DISK", "files": 2}))
        await t.tasks.files.turn()
        await t.tasks.files.turn()
        await t.settled(task)
        await t.tasks.cancel_task(m.CancelTask(task_id=task), ALICE)
        await t.settled(task)
        await t.tasks.files.turn()
        assert shelf.rules() == []
        await t.steer(task, Verb.RETRY)
        read = []
        for _ in range(6):
            await t.tasks.files.turn()
            read += await t.work(task)
        assert sorted(read) == ["read a", "read b", "read c"]
        assert (await t.row(task)).state is TaskState.FINISHED
        await t.tasks.files.turn()
        assert shelf.rules() == []


async def test_the_last_of_two_readers_lets_a_file_go(place, shelf):
    shelf.have("a")
    async with at(place, shelf) as (_, t):
        gate = {"staged": "DISK"}
        one = await t.submit(step("s", RAW, "one", gate=gate))
        two = await t.submit(step("s", RAW, "two", gate=gate))
        for _ in range(2):
            await t.tasks.files.turn()
        await t.settled(two)
        await t.tasks.cancel_task(m.CancelTask(task_id=two), ALICE)
        await t.settled(two)
        await t.tasks.files.turn()
        assert shelf.rules() == ["a"]
        assert await t.work(one) == ["one"]
        await t.tasks.files.turn()
        assert shelf.rules() == []


async def test_nobody_stages_where_the_operator_has_not_said_so(place, shelf):
    async with at(place, shelf) as (b, t):
        with pytest.raises(Rejected, match="may not have files staged at TAPE"):
            await t.submit(step("s", RAW, gate={"staged": "TAPE"}))
    async with bench(place) as b:
        with pytest.raises(Rejected, match="has no catalogue"):
            await Tasks(b).submit(step("s", RAW))


@pytest.mark.parametrize("seed", range(6))
async def test_crashes_between_any_question_and_its_answer_change_nothing(place, shelf, seed):
    """Each transaction and each call of the catalogue is followed, or not, by the next."""
    chance = random.Random(seed)
    shelf.have(*(f"f{nr:02}" for nr in range(20)))
    async with at(place, shelf) as (b, t):
        gate = {"staged": "DISK", "files": 5}
        again = {"attempts": 50}
        task = await t.submit(step("s", RAW, "read {items}", by=2, gate=gate, failed=again))
        write, ask = b.service.state.store.write, shelf.ask

        class Crash(Exception):
            pass

        def crashing(call):
            async def called(*args):
                if chance.random() < 0.15:
                    raise Crash
                answer = await call(*args)
                if chance.random() < 0.15:
                    raise Crash
                return answer

            return called

        class Store:
            def __getattr__(self, name):
                return getattr(b.service.store, name)

        store = Store()
        store.write = crashing(write)
        read = []
        for _ in range(400):
            b.service.tasks.files._ask = crashing(ask)
            b.service.state.store = store
            try:
                await t.tasks.files.turn()
                await t.tasks.advance(task)
            except Crash:
                pass
            finally:
                b.service.state.store = b.service.store
            assert len(shelf.rules()) <= 5
            there = set(shelf.on_disk())
            done = await t.work(task, bad=f"f{chance.randrange(20):02}")
            assert {name for one in done for name in one.split()[1:]} <= there
            read += done
            if (await t.row(task)).state is not TaskState.RUNNING:
                break
        row = await t.row(task)
        assert (row.state, row.steps[0].items, row.steps[0].finished) == ("finished", 20, 20)
        b.service.tasks.files._ask = ask
        for _ in range(3):
            await t.tasks.files.turn()
        assert shelf.rules() == shelf.on_disk() == []


async def test_a_page_counts_the_files_of_the_carousel_by_how_far_they_are(place, shelf):
    shelf.have("a", "b", "c")
    async with at(place, shelf) as (_, t):
        gate = {"staged": "DISK", "files": 2}
        task = await t.submit(step("s", RAW, "read {item}", gate=gate))

        async def counted() -> tuple[int, int, int, int]:
            (one,) = (await t.tasks.task(api.TaskQuery(task_id=task), ALICE)).staging
            assert (one.step, one.storage, one.most) == ("s", "DISK", 2)
            assert one.asked + one.staging + one.staged + one.held <= one.most
            return one.listed, one.asked + one.staging, one.staged, one.held

        seen = [await counted()]
        for _ in range(8):
            await t.tasks.files.turn()
            seen.append(await counted())
            await t.settled(task)
            seen.append(await counted())
            await t.work(task)
        assert seen[0] == (0, 0, 0, 0)
        assert (1, 0, 0, 2) in seen
        assert seen[-1] == (0, 0, 0, 0)
