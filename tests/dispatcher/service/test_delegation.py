"""Credentials that users keep at the dispatcher: who gets them, when, and how they lie there."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ailurus.credential_text import describe
from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import CredentialUse
from dispatcher.auth.delegated import Vault
from dispatcher.refusal import Rejected
from dispatcher.rules.credentials import MOST
from tests.dispatcher.helpers import ALICE, BOB, job, token

LATER = time.time() + 3600
USES = (CredentialUse(name="t"), CredentialUse(name="p", payload=True))


async def keep(b, name="t", secret="", caller=ALICE):
    ask = m.NewCredential(name=name, secret=secret or token(LATER))
    return await b.service.delegation.keep_credential(ask, caller)


async def leased(b, *uses):
    """A worker with a job of alice's that names these credentials."""
    worker = await b.worker()
    await b.submit(job(credentials=uses or (CredentialUse(name="t"),)))
    (got,) = await worker.acquire()
    return worker, m.CredentialsRequest(job_id=got.job_id, attempt_nr=got.attempt_nr), got


def proxy(*, days=1.0, key=None):
    """A proxy certificate in PEM, as voms-proxy-init would write it: certificate, then key."""
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(own, SHA256())
    )
    pem = (key or own).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return (made.public_bytes(Encoding.PEM) + pem).decode()


async def test_the_worker_of_a_job_gets_what_the_job_names(b):
    await keep(b, "t")
    await keep(b, "p", proxy())
    await keep(b, "unused")
    worker, ask, _ = await leased(b, *USES)
    given = (await b.service.delegation.job_credentials(ask, worker.caller)).credentials
    assert [(one.name, one.kind, one.payload) for one in given] == [
        ("t", "token", False),
        ("p", "proxy", True),
    ]
    assert describe(given[1].secret).subject == "CN=alice"


async def test_a_credential_that_is_kept_again_is_renewed_for_jobs_that_run(b):
    await keep(b)
    worker, ask, _ = await leased(b)
    await keep(b, secret=token(LATER + 999))
    (given,) = (await b.service.delegation.job_credentials(ask, worker.caller)).credentials
    assert given.expires == pytest.approx(LATER + 999, abs=1)


async def test_a_worker_gets_nothing_once_the_attempt_has_ended(b):
    await keep(b)
    worker, ask, got = await leased(b)
    await worker.report(got)
    with pytest.raises(Rejected) as refused:
        await b.service.delegation.job_credentials(ask, worker.caller)
    assert refused.value.status == 403


async def test_a_forgotten_credential_is_left_out(b):
    await keep(b)
    worker, ask, _ = await leased(b)
    await b.service.delegation.forget_credentials(m.ForgetCredentials(names=("t", "?")), ALICE)
    assert not (await b.service.delegation.job_credentials(ask, worker.caller)).credentials


async def test_a_job_cannot_name_what_its_user_does_not_have(b):
    await keep(b, caller=BOB)
    with pytest.raises(Rejected) as refused:
        await b.submit(job("a"), job("b", credentials=(CredentialUse(name="t"),)))
    assert refused.value.field == "jobs[1].credentials[0]"
    assert "credential keep t" in refused.value.remedy


async def test_a_submission_that_comes_again_is_answered_though_its_credential_is_gone(b):
    await keep(b)
    mine = job(credentials=(CredentialUse(name="t"),))
    first = await b.submit(mine, request="r1")
    await b.service.delegation.forget_credentials(m.ForgetCredentials(names=("t",)), ALICE)
    assert await b.submit(mine, request="r1") == first


async def test_people_see_what_it_is_and_never_the_secret(b):
    secret = token(LATER, sub="alice@cern")
    kept = await keep(b, secret=secret)
    listed = await b.service.delegation.credentials(NoQuery(), ALICE)
    assert listed.credentials == (kept,)
    assert (kept.subject, kept.kind) == ("alice@cern", "token")
    assert secret.rpartition(".")[2] not in repr((listed, await b.told()))


async def test_the_store_holds_no_secret(b):
    secret = token(LATER)
    await keep(b, secret=secret)
    rows = await b.service.store.read(lambda tx: tx.one("credential.get", owner="alice", name="t"))
    assert secret not in repr(rows)
    assert secret.split(".")[1] not in repr(rows)


async def test_keys_that_are_not_those_it_was_kept_under_are_told(b):
    await keep(b)
    worker, ask, _ = await leased(b)
    b.service.delegation._vault = Vault(b"another secret")
    with pytest.raises(Rejected) as refused:
        await b.service.delegation.job_credentials(ask, worker.caller)
    assert refused.value.status == 422
    assert "credential keep t" in refused.value.remedy


async def test_nobody_keeps_more_than_so_many(b):
    for nr in range(MOST):
        await keep(b, f"c{nr}")
    with pytest.raises(Rejected):
        await keep(b, "one-more")
    await keep(b, "c0")  # again


@pytest.mark.parametrize("secret", [token(1.0), proxy(days=-1)], ids=["token", "proxy"])
async def test_an_expired_one_is_refused(b, secret):
    with pytest.raises(Rejected) as refused:
        await keep(b, secret=secret)
    assert "expired" in refused.value.title


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "a.b.c",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        proxy().partition("-----BEGIN EC")[0],
        proxy(key=ec.generate_private_key(ec.SECP256R1())),
        "-----BEGIN EC PRIVATE KEY-----",
    ],
    ids=["word", "no JWT", "no certificate", "no key", "another key", "cut"],
)
def test_what_is_no_credential_is_refused_without_being_shown(text):
    with pytest.raises(AilurusError) as refused:
        describe(text)
    assert refused.value.remedy
    assert text[:7] not in str(refused.value).replace("certificates", "")


def test_a_sealed_text_opens_for_its_owner_and_name_alone():
    vault = Vault(b"secret")
    sealed = vault.seal("alice", "t", "the text")
    assert vault.open("alice", "t", sealed) == "the text"
    assert Vault(b"secret").open("alice", "t", sealed) == "the text"
    for owner, name in (("bob", "t"), ("alice", "u"), ("alic", "e\0t")):
        with pytest.raises(ValueError, match="not sealed"):
            vault.open(owner, name, sealed)
    with pytest.raises(ValueError, match="not sealed"):
        vault.open("alice", "t", sealed[:-8] + "AAAAAAA=")
