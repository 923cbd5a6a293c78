"""Each loop of an edge and of a relay goes on after a fault, and what does not is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import msgspec
import pytest

import ailurus
import harvester_edge as program
from ailurus.logs import Log
from harvester_edge import daemon, loop_status
from harvester_edge.book import BookUnwritable
from harvester_edge.daemon import SiteTaken
from harvester_edge.metrics import page
from harvester_edge.relay import serve
from harvester_edge.site import Site
from harvester_edge.status import glance
from tests.rig.waiting import eventually
from tests.turns import Boom, Turns, named

pytestmark = pytest.mark.field("K1")
LOOPS = {
    "relay": ("store", "fetch", "tell", "say", "listen", "accept"),
    "spool": ("store", "fetch", "tell", "say", "spool"),
}


def test_every_loop_of_the_relay_has_its_test_below():
    doors = named(ailurus, "task", "thread")
    assert named(program, "task", "thread") | doors == {
        n for names in LOOPS.values() for n in names
    }


@pytest.mark.parametrize(
    ("network", "name"), [(network, name) for network, names in LOOPS.items() for name in names]
)
def test_a_loop_of_a_relay_that_something_was_thrown_into_goes_on(
    network, name, tree, tmp_path, monkeypatch
):
    monkeypatch.setattr("ailurus.loops.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(serve, "SAY_S", 0.01)
    monkeypatch.setattr("harvester_edge.relay.dispatcher.TELL_S", 0.01)
    monkeypatch.setattr("harvester_edge.relay.spool.LOOK_S", 0.01)
    relay = {
        "token_file": str(tmp_path / "edge.token"),
        "url": "https://localhost:1",
        "listen": "127.0.0.1:0",
    }
    site = msgspec.convert({**tree, "network": network, "relay": relay}, Site)
    site.relay_state.mkdir(parents=True)
    turns = Turns(monkeypatch)
    turns.failing = name

    async def main() -> None:
        stores = []
        monkeypatch.setattr(
            serve, "RelayStore", lambda *given: stores.append(RelayStore(*given)) or stores[0]
        )
        serving = asyncio.create_task(serve._serve(site, Log("relay"), 1.0))
        await eventually(lambda: turns.since[name] >= 1 and not turns.failing)
        await stores[0].write(lambda connection: None)
        await eventually(lambda: loop_status.read(site.relay_state).failures.get(name) == 1)
        assert sum(loop_status.read(site.relay_state).failures.values()) == 1
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    from harvester_edge.relay.store import RelayStore

    asyncio.run(main())


class Stopped(threading.Event):
    """Ends a loop after so many waits, which take no time."""

    def __init__(self, waits: int, world: object) -> None:
        super().__init__()
        self.left, self.world, self.seen = waits, world, []

    def wait(self, timeout: float | None = None) -> bool:
        self.seen.append(timeout)
        self.left -= 1
        if self.left == 0:
            self.set()
        return True


@pytest.mark.parametrize("fault", [Boom("no such table"), BookUnwritable("a full disk")])
def test_a_cycle_that_fails_is_told_and_the_next_one_goes_on_from_the_book(
    fault, world, monkeypatch
):
    monkeypatch.setattr("ailurus.loops.DOWN_S", 0.0)
    world.dispatcher.jobs = 1
    observe, faults = daemon.observe, [fault] * 4
    downs = []

    def broken(*given: object) -> object:
        if faults:
            world.edge.workers.clear()  # it is left in the middle
            raise faults.pop()
        with monkeypatch.context() as running:
            running.setattr("harvester_edge.status.holder", lambda _: 1)
            downs.append(glance(world.edge.site).down)
        return observe(*given)

    monkeypatch.setattr(daemon, "observe", broken)
    stop = Stopped(6, world)
    daemon.run(world.edge, stop)
    assert len(world.batch.jobs) == 1
    assert stop.seen[3] > stop.seen[5]  # it had waited for longer
    assert "cycle" in downs[0][0]
    assert str(fault) in downs[0][0]
    assert loop_status.read(world.edge.state).failures == {"cycle": 4}
    assert b'ailurus_edge_loop_failures{loop="edge.cycle",site="demo"} 4.0' in page(world.edge.site)


def test_an_edge_whose_site_was_taken_ends(world, monkeypatch):
    def taken(*_: object) -> None:
        raise SiteTaken("another has it")

    monkeypatch.setattr(daemon, "observe", taken)
    with pytest.raises(SiteTaken):
        daemon.run(world.edge, threading.Event())


def test_draining_goes_on_after_a_fault(world, monkeypatch):
    world.dispatcher.jobs = 1
    world.cycle(2)
    assert world.workers()
    tell, faults = daemon.act, [Boom()]

    def broken(*given: object) -> object:
        if faults:
            raise faults.pop()
        world.batch.jobs.clear()
        world.edge.workers.clear()
        return tell(*given)

    monkeypatch.setattr(daemon, "act", broken)
    daemon.drain_all(world.edge, Stopped(9, world))
    assert not faults


def test_what_a_process_that_runs_no_more_said_is_not_shown(world):
    world.edge.state.joinpath(loop_status.NAME).write_bytes(
        msgspec.json.encode(loop_status.LoopStatus(failures={"cycle": 1}, down=("cycle is down",)))
    )
    assert glance(world.edge.site).down == ()
    world.edge.state.joinpath(loop_status.NAME).write_text("no json")
    assert loop_status.read(world.edge.state) == loop_status.LoopStatus()


def test_a_relays_change_that_breaks_the_thread_is_answered_and_the_next_is_written(
    tmp_path, monkeypatch
):
    from harvester_edge.relay.store import RelayStore

    monkeypatch.setattr("ailurus.loops.FIRST_PAUSE_S", 0.001)

    async def main() -> None:
        store = RelayStore(tmp_path / "relay.sqlite")

        def broken(_: object) -> None:
            raise SystemExit

        with pytest.raises(RuntimeError, match="SystemExit"):
            await asyncio.wait_for(store.write(broken), 5)
        await asyncio.wait_for(store.write(lambda connection: None), 5)
        store.close()

    asyncio.run(main())
