"""Each loop of a dispatcher goes on after a fault, and is missed when it does not."""

from __future__ import annotations

import asyncio

import pytest

import dispatcher as program
from ailurus.loops import Loop
from ailurus.protocol.api import Scope
from ailurus.protocol.messages import Revoke
from dispatcher.auth.caller import ANONYMOUS
from dispatcher.auth.keys import made
from dispatcher.auth.oidc import Foreign, Policy
from dispatcher.auth.revocation import Revocations
from dispatcher.auth.tokens import Issuer
from dispatcher.cli.running import watchdog
from dispatcher.door.readiness import Readiness
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import ALICE, bench
from tests.rig.catalogue import InMemory
from tests.rig.waiting import eventually
from tests.turns import Boom, Turns, named

pytestmark = pytest.mark.field("K1")
LOOPS = (
    "time",
    "descend",
    "tidy",
    "writer",
    "listen",
    "revocations",
    "traces",
    "issuers",
    "watchdog",
    "catalogue",
    "tasks",
    "task files",
)


def test_every_loop_that_is_kept_has_its_test_below():
    assert named(program, "task", "thread") == set(LOOPS)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_something_was_thrown_into_goes_on(name, postgres_server, monkeypatch):
    monkeypatch.setattr("ailurus.loops.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("dispatcher.service.upkeep.TIDY_S", 0.01)
    monkeypatch.setattr("dispatcher.cli.running.LOOK_S", 0.01)
    monkeypatch.setattr("dispatcher.auth.oidc.HOURLY_S", 0.01)
    monkeypatch.setattr("dispatcher.service.registrar.LOOK_S", 0.01)
    monkeypatch.setattr("dispatcher.service.tasks.LOOK_S", 0.01)
    monkeypatch.setattr("dispatcher.service.task_files.LOOK_S", 0.01)
    monkeypatch.setattr("dispatcher.store.postgres.LOOK_S", 0.01)
    turns = Turns(monkeypatch)

    async def main() -> None:
        from dispatcher.telemetry.traces import Traces

        async with bench(postgres_server.database(), retention_s=3600.0) as one:
            service = one.service
            issuer = Issuer(made())
            revocations = Revocations(service.store, issuer)
            await revocations.open()
            service.loops.task("issuers", Foreign(Policy(issuers=())).keep_fresh)
            service.loops.task("watchdog", watchdog)
            traces = Traces(service, "http://127.0.0.1:1")
            service.registrar._ask = InMemory().ask
            service.registrar.start()
            service.tasks.files._ask = InMemory().ask
            service.tasks.files.start()

            async def happens() -> None:
                await one.submit()
                service.upkeep._unfold.set()
                await revocations.revoke(Revoke(token_id="t"), ALICE)
                traces._more.set()

            assert set(service.loops.names) >= set(LOOPS)
            turns.failing = name
            await happens()
            await eventually(lambda: service.loops.failures()[name] == 1)
            await eventually(lambda: turns.since[name] >= 1)
            before = turns.since[name]
            await happens()
            await eventually(lambda: turns.since[name] > before)
            assert {n: f for n, f in service.loops.failures().items() if f} == {name: 1}
            service.loops._tasks.discard(traces._sending)
            traces._sending.cancel()
            await asyncio.to_thread(traces._provider.shutdown)

    asyncio.run(main())


def test_it_is_not_ready_while_a_loop_is_down_and_says_which(tmp_path, monkeypatch):
    monkeypatch.setattr("ailurus.loops.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("ailurus.loops.DOWN_S", 0.0)

    async def main() -> None:
        async with bench(tmp_path) as one:
            check = Readiness(one.service.store).check
            await check()
            broken = True

            async def body(loop: Loop) -> None:
                if broken:
                    raise Boom("no table")
                loop.turned(None)
                await asyncio.Event().wait()

            one.service.loops.task("extra", body)
            await eventually(lambda: one.service.loops.failures()["extra"] > 0)
            with pytest.raises(Rejected) as refused:
                await check()
            assert refused.value.status == 503
            assert "`extra`" in (refused.value.detail or "")
            assert "no table" in (refused.value.detail or "")
            monkeypatch.setattr("ailurus.loops.CALM_S", 0.0)
            broken = False
            await eventually(lambda: not one.service.loops.down())
            await check()

    asyncio.run(main())


def test_a_listener_that_fails_cuts_off_no_other(place):
    async def main() -> None:
        async with bench(place) as one:
            heard = []

            def broken(events: object) -> None:
                raise Boom

            one.service.store.listen(broken)
            one.service.store.listen(heard.append)
            await one.submit()
            await eventually(lambda: bool(heard))
            assert one.service.loops.failures()["listeners"] >= 1

    asyncio.run(main())


def test_a_revocation_that_could_not_be_read_at_once_is_read_later(tmp_path, monkeypatch):
    monkeypatch.setattr("ailurus.loops.FIRST_PAUSE_S", 0.001)

    async def main() -> None:
        async with bench(tmp_path) as one:
            here, there = Issuer(keys := made()), Issuer(keys)
            ours, theirs = (Revocations(one.service.store, issuer) for issuer in (here, there))
            await ours.open()
            await theirs.open()
            token = there.issue("alice", [str(Scope.READ)], 3600.0).token
            read, broken = theirs._read, [Boom(), Boom()]

            async def fails_first() -> None:
                if broken:
                    raise broken.pop()
                await read()

            monkeypatch.setattr(theirs, "_read", fails_first)
            await ours.revoke(Revoke(subject="alice"), ANONYMOUS)

            def refused() -> bool:
                try:
                    there.caller(token)
                except Rejected:
                    return True
                return False

            await eventually(refused)

    asyncio.run(main())
