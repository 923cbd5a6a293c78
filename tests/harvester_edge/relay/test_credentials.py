"""Credentials of users, for jobs whose pilots are behind a relay."""

from __future__ import annotations

import time

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import CredentialUse
from ailurus.wire.client import Refused
from harvester_edge.relay.state import Refusal
from tests.dispatcher.helpers import ALICE, job, token
from tests.harvester_edge.relay.world import Pilot, World, play


async def kept(w: World) -> str:
    """The secret of a credential that a job of alice's names."""
    secret = token(time.time() + 3600)
    await w.b.service.delegation.keep_credential(m.NewCredential(name="t", secret=secret), ALICE)
    await w.b.submit(job("named", credentials=(CredentialUse(name="t"),), memory_mb=100))
    return secret


def opened(pilot: Pilot, one: m.Assignment, answer: m.Credentials) -> list[str]:
    bound = m.CredentialsRequest(job_id=one.job_id, attempt_nr=one.attempt_nr).bound
    text = pilot.reader.open(answer.sealed, bound)
    return [given.secret for given in msgspec.json.decode(text, type=tuple[m.Credential, ...])]


def test_the_pilot_that_has_the_job_opens_them_and_the_relay_cannot(tmp_path):
    async def test(w: World) -> None:
        secret = await kept(w)
        (pilot,) = await w.pilots()
        (one,) = await w.fill(pilot)
        answer = await pilot.credentials(one)
        assert opened(pilot, one, answer) == [secret]
        assert not answer.credentials
        assert secret.split(".")[1] not in repr(answer)

    play(test, tmp_path)


def test_nothing_of_them_is_in_the_relays_files(tmp_path):
    async def test(w: World) -> None:
        secret = await kept(w)
        (pilot,) = await w.pilots()
        (one,) = await w.fill(pilot)
        sealed = (await pilot.credentials(one)).sealed
        await w.turn()
        texts = [path.read_bytes() for path in tmp_path.glob("relay.sqlite*")]
        assert texts
        assert not any(
            part in text
            for text in texts
            for part in (secret.encode(), sealed[-80:].encode(), pilot.reader.public.encode())
        )

    play(test, tmp_path)


def test_a_job_that_another_pilot_runs_has_them_too(tmp_path):
    """Leased to one that has gone; the relay asks in its name."""

    async def test(w: World) -> None:
        secret = await kept(w)
        one, other = await w.pilots(2)
        (job,) = await w.fill(one)
        await w.relay.release(
            m.Release(jobs=(m.AttemptKey(job_id=job.job_id, attempt_nr=job.attempt_nr),)), one.known
        )
        (again,) = await other.acquire()
        assert opened(other, again, await other.credentials(again)) == [secret]
        with pytest.raises(Refusal) as refused:
            await one.credentials(job)
        assert refused.value.problem.status == 404

    play(test, tmp_path)


def test_renewed_ones_come_with_the_next_request_and_none_after_the_end(tmp_path):
    async def test(w: World) -> None:
        await kept(w)
        (pilot,) = await w.pilots()
        (one,) = await w.fill(pilot)
        newer = token(time.time() + 9999)
        await w.b.service.delegation.keep_credential(m.NewCredential(name="t", secret=newer), ALICE)
        assert opened(pilot, one, await pilot.credentials(one)) == [newer]
        await pilot.report(one)
        with pytest.raises(Refusal):
            await pilot.credentials(one)

    play(test, tmp_path)


def test_a_job_that_names_one_waits_for_a_dispatcher_that_is_away(tmp_path):
    async def test(w: World) -> None:
        await kept(w)
        one, other = await w.pilots(2)
        (job,) = await w.fill(one)
        w.way.cut = True
        with pytest.raises(Refusal) as refused:
            await one.credentials(job)
        assert refused.value.problem.status == 503
        await w.relay.release(
            m.Release(jobs=(m.AttemptKey(job_id=job.job_id, attempt_nr=job.attempt_nr),)), one.known
        )
        assert not await other.acquire()
        w.way.cut, w.way.up = False, True
        assert await other.acquire()

    play(test, tmp_path)


@pytest.mark.parametrize("key", ["", "AAAA", "é"])
def test_nobody_gets_them_readable_by_naming_no_key(tmp_path, key):
    async def test(w: World) -> None:
        await kept(w)
        (pilot,) = await w.pilots()
        (one,) = await w.fill(pilot)
        ask = m.CredentialsRequest(job_id=one.job_id, attempt_nr=one.attempt_nr, sealed_to=key)
        with pytest.raises(Refusal) as refused:
            await w.relay.job_credentials(ask, pilot.known)
        assert refused.value.problem.status == 422
        whole = m.RelayCredentials(site="here", worker_id=pilot.known.worker_id, ask=ask)
        with pytest.raises(Refused):
            await w.way.call("relay_credentials", whole, m.Credentials)

    play(test, tmp_path)


def test_what_a_server_says_unsealed_is_not_passed_on(tmp_path, monkeypatch):
    async def test(w: World) -> None:
        await kept(w)
        (pilot,) = await w.pilots()
        (one,) = await w.fill(pilot)
        plain = m.Credential(name="t", kind=m.CredentialKind.TOKEN, secret="readable")

        async def answer(worker_id: int, ask: m.CredentialsRequest) -> m.Credentials:
            return m.Credentials(credentials=(plain,))

        monkeypatch.setattr(w.upper, "credentials", answer)
        assert not (await pilot.credentials(one)).credentials

    play(test, tmp_path)
