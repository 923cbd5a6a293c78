"""Tokens that are no longer good (T7): revoked, signed out, or signed by a key that was taken
away."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import PREFIX, Scope
from dispatcher.auth import keys
from dispatcher.auth.caller import BadToken, Caller
from dispatcher.auth.revocation import Revocations
from dispatcher.auth.tokens import Issuer
from dispatcher.cli.exits import CommandError
from dispatcher.cli.keys import changed_by
from dispatcher.door import session
from dispatcher.store import open_store
from tests.rig.waiting import eventually


def good(door, token) -> bool:
    return door.ask("GET", "/overview", token=token).status == 200


def revoke(door, **ask):
    return door.ask("POST", "/tokens/revoke", ask, token=door.token(Scope.ADMIN, subject="boss"))


def test_t7_a_subject_loses_the_tokens_it_had_and_gets_new_ones(dispatcher):
    old, others = dispatcher.token(Scope.READ), dispatcher.token(Scope.READ, subject="bob")
    assert good(dispatcher, old)
    time.sleep(0.002)
    assert revoke(dispatcher, subject="alice").status == 200
    assert not good(dispatcher, old)
    assert good(dispatcher, others)
    assert good(dispatcher, dispatcher.token(Scope.READ))


def test_t7_one_token_is_revoked_by_its_id(dispatcher):
    first, second = dispatcher.token(Scope.READ), dispatcher.token(Scope.READ)
    assert revoke(dispatcher, token_id=dispatcher.issuer.caller(first).token_id).status == 200
    assert not good(dispatcher, first)
    assert good(dispatcher, second)


@pytest.mark.parametrize("ask", [{}, {"subject": "a", "token_id": "b"}])
def test_what_is_to_be_revoked_is_said_in_one_way(dispatcher, ask):
    assert revoke(dispatcher, **ask).status == 422


def test_what_was_revoked_stays_so_for_every_dispatcher_on_the_store(dispatcher, some_keys):
    token = dispatcher.token(Scope.READ)
    revoke(dispatcher, token_id=dispatcher.issuer.caller(token).token_id)
    other = Issuer(some_keys)
    assert other.caller(token)
    dispatcher.runner.run(Revocations(dispatcher.service.store, other).open())
    with pytest.raises(BadToken):
        other.caller(token)


def test_another_process_hears_of_it(dispatcher, some_keys):
    token, other = dispatcher.token(Scope.READ), Issuer(some_keys)
    listening = Revocations(dispatcher.service.store, other)
    dispatcher.runner.run(listening.open())
    assert other.caller(token)
    revoke(dispatcher, token_id=other.caller(token).token_id)

    dispatcher.runner.run(eventually(lambda: refused(other, token)))


def refused(issuer, token):
    try:
        issuer.caller(token)
    except BadToken:
        return True
    return False


def test_t7_dispatchers_on_one_postgresql_hear_of_each_other_s_revocations(
    postgres_server, some_keys
):
    url = postgres_server.database()

    async def life() -> None:
        one, two = open_store(url), open_store(url)
        here, there = Issuer(some_keys), Issuer(some_keys)
        try:
            ours, theirs = Revocations(one, here), Revocations(two, there)
            await ours.open()
            await theirs.open()
            await two.write(lambda tx: None)  # as a dispatcher does that starts
            token = here.mint("alice", [Scope.READ], 60).token
            assert there.caller(token)
            await ours.revoke(m.Revoke(subject="alice"), Caller(subject="boss"))
            await eventually(lambda: refused(there, token))
        finally:
            await one.close()
            await two.close()

    asyncio.run(asyncio.wait_for(life(), 30))


def test_t7_a_rotated_key_signs_and_the_old_one_verifies_until_it_is_retired(some_keys):
    issuer = Issuer(some_keys)
    old = issuer.mint("a", [Scope.READ], 60).token
    rotated = changed_by("rotate", "", some_keys)
    issuer.take(rotated)
    new = issuer.mint("a", [Scope.READ], 60).token
    assert issuer.caller(old)
    assert issuer.caller(new)
    issuer.take(changed_by("retire", some_keys.signing.kid, rotated))
    assert issuer.caller(new)
    with pytest.raises(BadToken):
        issuer.caller(old)


def test_a_key_is_known_everywhere_before_it_signs(some_keys):
    added = changed_by("add", "", some_keys)
    assert added.signing == some_keys.signing
    used = changed_by("use", added.keys[1].kid, added)
    assert [key.kid for key in used.keys] == [added.keys[1].kid, added.keys[0].kid]
    other_host, here = Issuer(added), Issuer(used)
    assert other_host.caller(here.mint("a", [Scope.READ], 60).token)
    assert used.secret == some_keys.secret  # report keys of running attempts stay good


@pytest.mark.parametrize(("action", "kid"), [("use", "none"), ("retire", "none"), ("retire", "")])
def test_a_key_that_is_not_there_is_named(some_keys, action, kid):
    with pytest.raises(CommandError, match="there is no key"):
        changed_by(action, kid, some_keys)


def test_the_last_key_stays(some_keys):
    with pytest.raises(CommandError, match="nothing would sign"):
        changed_by("retire", some_keys.signing.kid, some_keys)


def test_keys_are_replaced_as_a_whole_and_stay_private(tmp_path, some_keys):
    path = tmp_path / "queue.keys.json"
    keys.keep(path, msgspec.json.encode(some_keys))
    rotated = changed_by("rotate", "", some_keys)
    keys.replace(path, rotated)
    assert keys.read(path) == rotated  # read() refuses a file that others can read
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


# --- what came of a token dies with it (A13) ------------------------------------------------------

REGISTER = {"instance": "i", "queue": "q", "total": {"cores": 1}}


def id_of(door, token) -> str:
    return door.issuer.caller(token).token_id


@pytest.mark.field("A13")
@pytest.mark.parametrize("by", ["token_id", "subject"])
def test_the_session_of_a_revoked_token_ends(dispatcher, by):
    token = dispatcher.token(Scope.READ)
    cookie = session.begin(dispatcher.issuer, token, secure=False)
    kept = cookie.decode().split(";")[0].partition("=")[2]
    assert good(dispatcher, kept)
    time.sleep(0.002)
    ask = {"token_id": id_of(dispatcher, token), "subject": "alice"}
    assert revoke(dispatcher, **{by: ask[by]}).status == 200
    assert not good(dispatcher, kept)


@pytest.mark.field("A13")
def test_a_worker_that_a_revoked_token_registered_is_refused(dispatcher):
    token = dispatcher.token(Scope.PILOT)
    worker = dispatcher.ask("POST", "/worker/register", REGISTER, token=token).json["token"]
    beat = {"jobs": [], "room": {"cores": 1}}
    assert dispatcher.ask("POST", "/worker/beat", beat, token=worker).status == 200
    assert revoke(dispatcher, token_id=id_of(dispatcher, token)).status == 200
    assert dispatcher.ask("POST", "/worker/beat", beat, token=worker).status == 401


@pytest.mark.field("A13")
def test_what_an_edge_planned_with_a_revoked_token_cannot_begin(dispatcher):
    edge = dispatcher.issuer.issue("edge", [f"{Scope.EDGE}:s"], 3600).token
    hello = {"site": "s", "instance": "e", "slots": []}
    epoch = dispatcher.ask("POST", "/edge/hello", hello, token=edge).json["epoch"]
    intent = {
        "site": "s", "epoch": epoch, "intent": "t", "queue": "q", "count": 1,
        "deadline": time.time() + 900,
    }  # fmt: skip
    (bootstrap,) = dispatcher.ask("POST", "/edge/intent", intent, token=edge).json["tokens"]
    assert revoke(dispatcher, token_id=id_of(dispatcher, edge)).status == 200
    assert dispatcher.ask("POST", "/worker/register", REGISTER, token=bootstrap).status == 401


@pytest.mark.field("A13")
def test_what_was_renewed_and_renewed_again_ends_with_the_first(dispatcher):
    issuer = dispatcher.issuer
    token = first = dispatcher.token(Scope.PILOT)
    line = []
    for _ in range(200):
        token = issuer.mint("alice", [Scope.PILOT], 60, of=issuer.caller(token).lineage).token
        line.append(token)
    assert len(token) < 4000
    issuer.refuse([(f"id:{issuer.caller(line[-2]).token_id}", time.time() + 100)])
    with pytest.raises(BadToken):
        issuer.caller(token)
    assert issuer.caller(line[-3])
    issuer.refuse([(f"id:{issuer.caller(first).token_id}", time.time() + 100)])
    with pytest.raises(BadToken):
        issuer.caller(line[-3])


@pytest.mark.field("A13")
def test_tokens_made_with_a_stolen_one_end_and_those_of_the_same_administrator_do_not(dispatcher):
    stolen, mine = (dispatcher.token(Scope.ADMIN, subject="root") for _ in range(2))
    ask = {"subject": "bob", "scopes": [Scope.READ], "lifetime_s": 60}
    made, others = (
        dispatcher.ask("POST", "/tokens", ask, token=by).json["token"] for by in (stolen, mine)
    )
    assert revoke(dispatcher, token_id=id_of(dispatcher, stolen)).status == 200
    assert not good(dispatcher, made)
    assert good(dispatcher, others)
    time.sleep(0.002)
    assert revoke(dispatcher, subject="root").status == 200
    assert good(dispatcher, others)


@pytest.mark.field("A13")
def test_what_waits_for_the_holder_of_a_revoked_token_is_let_go(dispatcher):
    token = dispatcher.token(Scope.READ, Scope.ADMIN)
    caller = dispatcher.issuer.caller(token)

    path = f"/events?wait_s=60&after={dispatcher.service.hub.seq}"

    async def asked() -> int:
        sent = []

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        name, _, query = (PREFIX + path).partition("?")
        scope = {
            "type": "http", "method": "GET", "scheme": "http", "path": name,
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), (b"authorization", b"Bearer " + token.encode())],
        }  # fmt: skip
        waiting = asyncio.create_task(dispatcher.app(scope, asyncio.Event().wait, send))
        await eventually(lambda: len(dispatcher.app.waiting))
        dispatcher.issuer.refuse([(f"id:{caller.token_id}", time.time() + 100)])
        await asyncio.wait_for(waiting, 5)
        return sent[0]["status"]

    assert dispatcher.runner.run(asked()) == 401
