"""T7: a token is revoked or a key taken away while a real pilot runs a job: the job ends well with
the renewed credential, and the old one opens nothing."""

from __future__ import annotations

import signal
import subprocess

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client, Refused
from ailurus.wire.credentials import TokenFile, fixed_token
from ailurus.wire.retry import Patience
from tests.rig.programs import BIN, QUEUE, Rig, null_job
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def rig():
    with Rig(heartbeat_s=0.5) as made:
        made.pilot()
        made.warm()
        (job,) = made.client.submit([null_job(command="sleep 5", walltime_s=60)]).job_ids
        until(lambda: made.client.show(job).row.state == JobState.RUNNING, 30, "the job runs")
        made.job = job
        yield made


def ends_well(rig) -> None:
    rig.client.wait([rig.job], 40)
    shown = rig.client.show(rig.job)
    assert (shown.row.state, len(shown.attempts)) == (JobState.FINISHED, 1)


def refused(rig, token: str) -> bool:
    client = Client(rig.url, fixed_token(token), patience=Patience(total_s=0))
    try:
        client.overview()
    except Refused as error:
        return error.status == 401
    return False


def test_t7_the_worker_s_token_is_revoked(rig):
    worker = rig.workers()[0].worker_id
    rig.client.call("revoke", m.Revoke(subject=f"worker:{worker}"), answer=m.Done)
    ends_well(rig)
    assert [one.worker_id for one in rig.workers()] == [worker]


def test_t7_the_key_that_signed_all_tokens_is_taken_away(rig):
    old_pilot, old_admin = rig.pilot_token.read_text(), rig.admin_token.read_text().strip()
    store = ["--store", f"sqlite:///{rig.store}"]

    def keys(*words: str) -> str:
        return subprocess.run(
            [BIN / "dispatcher", "keys", *words, *store], check=True, capture_output=True, text=True
        ).stdout

    before = keys("list").split()[2]
    keys("rotate")
    rig.dispatcher.signal(signal.SIGHUP)
    until(lambda: '"keys_read"' in rig.dispatcher.log.read_text(), 20, "the keys are read")
    rig.token("pilot", "ailurus.pilot")  # renewed in their files, as an administrator would
    ask = m.NewToken(subject="admin", scopes=("ailurus.admin",))
    rig.admin_token.write_text(rig.client.call("token", ask, answer=m.Token).token)
    rig.client = Client(rig.url, TokenFile(rig.admin_token), patience=Patience(total_s=20))
    keys("retire", before)
    rig.dispatcher.signal(signal.SIGHUP)
    until(lambda: refused(rig, old_admin), 20, "the old administrator's token is refused")
    assert refused(rig, old_pilot)
    ends_well(rig)
    (after,) = rig.client.submit([null_job(1, queue=QUEUE)]).job_ids
    rig.client.wait([after], 30)
    assert rig.client.show(after).row.state == JobState.FINISHED
