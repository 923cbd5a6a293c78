"""What a change moves in memory is what was committed, whatever its neighbours in the commit do."""

from __future__ import annotations

import asyncio
from functools import partial
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.resources import Shape
from ailurus.protocol.worker import Phase
from dispatcher.events import WorkerChanged
from dispatcher.ports import NOTHING, Ahead, Unavailable
from dispatcher.rules import preparing, queue, records, retention, submission
from dispatcher.rules.group_turns import Turns
from dispatcher.rules.lanes import Lanes
from dispatcher.rules.queue import LeaseRequest
from dispatcher.store import open_store
from tests.dispatcher.helpers import ALICE, BIG, bench, job, request

GROUPS = {"a": 1.0, "b": 1.0}
OF_A = replace(ALICE, subject="ann", groups=("a",))
OF_B = replace(ALICE, subject="ben", groups=("b",))
BRIEF = Ahead(rows=1, all=True)


def fails_after_writing(tx):
    tx.tell(WorkerChanged(phase=Phase.ACTIVE), at=1.0)
    raise ValueError("no")


def handed_out(service) -> dict[str, int]:
    return {group: n for (_, group), n in service.state.turns.taken.items() if n}


@pytest.mark.parametrize("ahead", [NOTHING, BRIEF], ids=["any length", "brief"])
def test_a_neighbour_that_fails_charges_no_group_twice(place, ahead):
    async def main():
        async with bench(place, groups=GROUPS) as b:
            await b.submit(*(job(f"a{nr}") for nr in range(2)), caller=OF_A)
            await b.submit(*(job(f"b{nr}") for nr in range(2)), caller=OF_B)
            workers = [await b.worker() for _ in range(2)]
            *_, failed = await asyncio.gather(
                *(worker.acquire() for worker in workers),
                b.service.store.write(fails_after_writing, ahead),
                return_exceptions=True,
            )
            assert isinstance(failed, ValueError)
            assert handed_out(b.service) == {"a": 1, "b": 1}

    asyncio.run(main())


@pytest.mark.parametrize("ahead", [NOTHING, BRIEF], ids=["any length", "brief"])
def test_a_change_that_is_undone_takes_its_memory_with_it(place, ahead):
    def change(tx, then=None):
        tx.assign(table, "kept", 2)
        tx.assign(table, "new", 1)
        tx.assign(table, "new", 2)
        if then is not None:
            raise then

    async def main():
        async with bench(place) as b:
            write = b.service.store.write
            fault = ValueError("no")
            for neighbour in (lambda tx: None, fails_after_writing):
                await asyncio.gather(
                    write(lambda tx: change(tx, fault), ahead),
                    write(neighbour, ahead),
                    return_exceptions=True,
                )
                assert table == {"kept": 1}
            await asyncio.gather(
                write(change, ahead), write(fails_after_writing, ahead), return_exceptions=True
            )
            assert table == {"kept": 2, "new": 2}

    table = {"kept": 1}
    asyncio.run(main())


def test_a_commit_that_the_disk_refuses_leaves_memory_as_it_was(tmp_path):
    async def main():
        async with bench(tmp_path) as b:
            store, table = b.service.store, {}
            execute = store._writer.execute
            execute("pragma max_page_count = 1")  # the disk is full
            big = "x" * 10_000_000

            def change(tx):
                tx.assign(table, "new", 1)
                tx.run("fact.put", kind="k", owner="", name="n", at=1.0, data=big)

            with pytest.raises(Unavailable):
                await store.write(change)
            assert table == {}
            execute("pragma max_page_count = 1000000")
            await store.write(change)
            assert table == {"new": 1}

    asyncio.run(main())


class Memory:
    """What leases and submissions move in memory, and the changes that do it."""

    def __init__(self) -> None:
        self.shapes: dict[int, Shape] = {}
        self.turns = Turns(GROUPS)

    def lease(self, tx, request: str) -> list[Shape]:
        one = LeaseRequest(worker_id=1, queue="q", room=BIG, request_id=request)
        got = queue.lease(tx, one, queue.Memory(self.shapes, self.turns), now=1.0)
        return [one.shape for one in got.jobs]

    def submit(self, tx, name: str, cores: int, group: str, *, good: bool) -> None:
        asked = replace(request(name, by=group), group=group)
        first = submission.begin(tx, asked, 1, process="", now=1.0)
        submission.add(
            tx,
            asked,
            preparing.prepare([job(cores=cores)]),
            Lanes(tx, group, group, self.turns, self.shapes, 1.0),
            first=first,
            ranks=[0.0],
            now=1.0,
        )
        submission.open_up(tx, asked, first, 1, now=1.0)
        if not good:
            raise ValueError("no")

    def change(self, what, name: str):
        """The change that `what` of a drawn commit stands for, and what it says to read ahead."""
        if what == "lease":
            return partial(self.lease, request=name), BRIEF
        group, cores, good = what
        return partial(self.submit, name=name, cores=cores, group=group, good=good), BRIEF


LEASE = st.just("lease")
SUBMIT = st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.booleans())


def is_good(what) -> bool:
    return what == "lease" or what[2]


@given(st.lists(st.lists(LEASE | SUBMIT, min_size=1, max_size=6), max_size=6))
@settings(max_examples=30, deadline=None)
def test_whatever_neighbours_fail_memory_is_what_was_committed(commits):
    """Changes that are committed together: leases, and submissions of two groups, of which some
    fail after all is written. Without those that fail, memory and leases are the same."""

    async def moved(folder, *, failures):
        memory, leased = Memory(), []
        store = open_store(f"sqlite:///{folder}/queue.db")
        try:
            for nr, commit in enumerate(commits):
                asked = [
                    store.write(*memory.change(what, f"{nr}.{place}"))
                    for place, what in enumerate(commit)
                    if failures or is_good(what)
                ]
                done = await asyncio.gather(*asked, return_exceptions=True)
                assert all(one is None or isinstance(one, list | ValueError) for one in done)
                leased += [one for one in done if isinstance(one, list)]
            stored = await store.read(records.shapes)
            assert memory.shapes.items() <= stored.items()
            return leased, memory.turns.taken
        finally:
            await store.close()

    async def main():
        with TemporaryDirectory() as one, TemporaryDirectory() as other:
            assert await moved(one, failures=True) == await moved(other, failures=False)

    asyncio.run(main())


def test_inputs_that_a_moved_parent_made_are_filled_in_whatever_a_neighbour_does(place):
    """The submission is stored in several commits, and each of them is run again."""

    async def main():
        async with bench(place) as b:
            (old,) = await b.submit(job("old", outputs=(OutputFile(name="x", url="file:///s"),)))
            worker = await b.worker()
            (got,) = await worker.acquire()
            made = m.DoneFile(name="x", url="file:///s/1.1.x", size=3, adler32="024d0127")
            await worker.report(got, files=(made,))
            while await b.service.store.write(lambda tx: retention.tidy(tx, before=4e9)):
                pass
            over = asyncio.Event()

            async def fail():
                while not over.is_set():
                    with pytest.raises(ValueError, match="no"):
                        await b.service.store.write(fails_after_writing)

            failing = asyncio.create_task(fail())
            child = job("child", depends_on=(old,), inputs=(InputFile(name="x"),), priority=1)
            many = (job(f"j{nr}", depends_on=("child",)) for nr in range(1001))
            await b.submit(child, *many)
            over.set()
            await failing
            (got,) = await worker.acquire()
            spec = msgspec.json.decode(msgspec.json.encode(got), type=m.Assignment).spec
            assert [one.url for one in spec.inputs] == [made.url]

    asyncio.run(main())
