"""One user's flood leaves the others alone (H7)."""

from __future__ import annotations

import asyncio

import pytest

from ailurus.protocol.api import Scope
from dispatcher.accounts.costs import JOB_S, REQUEST_S
from dispatcher.accounts.rates import BURST_S, Limiter, Rates, TooMuch
from dispatcher.door.app import App
from dispatcher.door.settings import DoorSettings

RATES = Rates(per_s=10.0, held=3)
BURST = int(RATES.per_s * BURST_S)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bounded(door):
    door.time = Time()
    limiter = Limiter(RATES, door.time)
    door.app = App(door.service.handlers(), door.issuer, DoorSettings(limiter=limiter))
    return door


def asked(door, token, times):
    return [door.ask("GET", "/overview", token=token).status for _ in range(times)]


def test_h7_a_user_beyond_the_share_is_told_when_to_come_back_and_others_are_served(bounded):
    alice, bob = bounded.token(Scope.READ), bounded.token(Scope.READ, subject="bob")
    assert set(asked(bounded, alice, BURST)) == {200}
    refused = bounded.ask("GET", "/overview", token=alice)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert "requests a second" in refused.json["title"]
    assert asked(bounded, bob, 1) == [200]
    bounded.time.now += 1.0
    assert asked(bounded, alice, 12) == [200] * 10 + [429] * 2


def test_h7_two_tokens_of_one_user_have_one_share(bounded):
    first, second = bounded.token(Scope.READ), bounded.token(Scope.READ)
    asked(bounded, first, BURST)
    assert asked(bounded, second, 1) == [429]


def test_h7_jobs_count_too_and_a_large_submission_is_paid_back_later(bounded):
    token = bounded.token(Scope.CREATE, Scope.READ)
    job = {"name": "j", "command": "true"}
    ask = {"request_id": "r", "jobs": [job] * int(BURST * REQUEST_S / JOB_S)}
    assert bounded.ask("POST", "/jobs", ask, token=token).status == 200
    assert asked(bounded, token, 1) == [429]
    bounded.time.now += 1.2 * BURST_S  # and its bytes
    assert asked(bounded, token, 1) == [200]


def test_administrators_workers_and_edges_are_not_bounded(bounded):
    admin = bounded.token(Scope.ADMIN)
    assert set(asked(bounded, admin, BURST + 10)) == {200}
    worker = bounded.token(Scope.WORKER, worker_id=1)
    beats = [
        bounded.ask("POST", "/worker/beat", {"room": {}}, token=worker).status
        for _ in range(BURST + 10)
    ]
    assert set(beats) == {200}


def test_h7_who_waits_for_too_much_at_once_is_refused_and_another_is_not():
    limiter = Limiter(RATES)

    async def follow(subject: str) -> None:
        with limiter.holding(subject):
            await asyncio.sleep(0.01)

    async def many(*subjects: str) -> list[BaseException | None]:
        return await asyncio.gather(*map(follow, subjects), return_exceptions=True)

    outcomes = asyncio.run(many("alice", "alice", "alice", "alice", "bob"))
    assert [isinstance(one, TooMuch) for one in outcomes] == [False, False, False, True, False]
    assert asyncio.run(many("alice")) == [None]  # they have let go


def test_accounts_of_who_has_not_asked_for_long_take_no_memory(monkeypatch):
    monkeypatch.setattr("dispatcher.accounts.rates.REMEMBERED", 10)
    limiter = Limiter(RATES, clock := Time())
    for nr in range(100):
        clock.now += BURST_S
        limiter.ask(f"user-{nr}")
    assert len(limiter._accounts) <= 11
