"""Attack tests T1, T2, T3, T8: who gets in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from ailurus.protocol.api import ROUTES, Scope
from dispatcher.auth.caller import BadToken
from dispatcher.auth.tokens import REMEMBERED


def b64(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture
def good(door, some_keys):
    """The claims and key of a token that is let in."""
    now = int(door.clock.now)
    claims = {
        "wlcg.ver": "1.0", "iss": some_keys.issuer, "aud": some_keys.issuer, "sub": "alice",
        "scope": "compute.read", "iat": now, "nbf": now, "exp": now + 60, "jti": "1",
    }  # fmt: skip
    return claims, load_pem_private_key(some_keys.signing.pem.encode(), None), some_keys.signing.kid


def status(door, token: str) -> int:
    return door.ask("GET", "/overview", token=token).status


def test_a_token_of_the_profile_is_let_in(door, good):
    claims, key, kid = good
    assert status(door, jwt.encode(claims, key, "ES256", headers={"kid": kid})) == 200


def test_t1_a_token_cannot_choose_how_it_is_checked(door, good):
    claims, key, kid = good
    public = key.public_key()
    secrets = [
        b"",
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        jwt.algorithms.ECAlgorithm.to_jwk(public).encode(),
    ]
    forged = [
        f"{b64({'alg': alg, 'typ': 'JWT', 'kid': kid})}.{b64(claims)}."
        for alg in ("none", "None", "")
    ]
    for secret in secrets:
        text = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{b64(claims)}"
        forged.append(f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}")
    for token in forged:
        assert status(door, token) == 401


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "other"},
        {"kid": "../../../dev/null"},
        {"kid": ""},
        {"kid": ["KID"]},
        {},
        {"kid": "KID", "jku": "https://example.org/keys"},
        {"kid": "KID", "x5u": "https://example.org/cert"},
        {"kid": "KID", "crit": ["exp"]},
        {"kid": "KID", "jwk": {"kty": "EC"}},
    ],
)
def test_t1_only_our_own_header_is_read(door, good, header):
    claims, key, kid = good
    header = json.loads(json.dumps(header).replace("KID", kid))
    text = f"{b64({'alg': 'ES256', 'typ': 'JWT', **header})}.{b64(claims)}"
    signature = jwt.algorithms.get_default_algorithms()["ES256"].sign(text.encode(), key)
    assert status(door, f"{text}.{b64(signature)}") == 401


def test_t1_a_repeated_kid_gains_nothing(door, good):
    claims, _, kid = good
    other = ec.generate_private_key(ec.SECP256R1())
    for first, second in ((kid, "other"), ("other", kid)):
        header = f'{{"alg":"ES256","typ":"JWT","kid":"{first}","kid":"{second}"}}'
        text = f"{b64(header.encode())}.{b64(claims)}"
        signature = jwt.algorithms.get_default_algorithms()["ES256"].sign(text.encode(), other)
        assert status(door, f"{text}.{b64(signature)}") == 401


@pytest.mark.parametrize(
    "change",
    [
        {"exp": -1}, {"nbf": 3600}, {"iat": 3600}, {"aud": "other"}, {"aud": ["a", "b"]},
        {"iss": "urn:ailurus:other"}, {"wlcg.ver": "2.0"}, {"wlcg.ver": None}, {"scope": 7},
        {"sub": None}, {"exp": None}, {"jti": None}, {"exp": "never"}, {"exp": 1e400},
    ],
)  # fmt: skip
def test_t2_every_claim_must_hold(door, good, change):
    claims, key, kid = good
    for name, value in change.items():
        if value is None:
            del claims[name]
        else:
            claims[name] = (
                int(door.clock.now) + value if type(value) is int and name != "scope" else value
            )
    assert status(door, jwt.encode(claims, key, "ES256", headers={"kid": kid})) == 401


@pytest.mark.parametrize("token", ["x" * 1_000_000, "." * 1_000_000, "a.b.c", "", "..", "é.é.é"])
def test_t2_what_is_no_token_is_refused_at_once(door, token):
    began = time.perf_counter()
    answer = door.ask("GET", "/overview", token=token)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert time.perf_counter() - began < 0.5


def test_t2_a_deeply_nested_header_is_refused(door):
    assert status(door, f"{b64(b'[' * 5000)}.{b64({})}.AA") == 401


def test_a_token_known_from_before_still_expires(door):
    token = door.token(Scope.READ, lifetime_s=60)
    assert status(door, token) == 200
    door.clock.now += 60
    assert status(door, token) == 401


def test_what_is_remembered_is_bounded(door, monkeypatch):
    monkeypatch.setattr("dispatcher.auth.tokens.REMEMBERED", 3)
    for _ in range(10):
        assert status(door, door.token(Scope.READ)) == 200
    assert len(door.issuer._known) <= 3
    assert REMEMBERED >= 10_000


CALLERS = {
    "nobody": None,
    "reader": (Scope.READ,),
    "creator": (Scope.CREATE,),
    "canceller": (Scope.CANCEL,),
    "modifier": (Scope.MODIFY,),
    "admin": (Scope.ADMIN,),
    "edge": (f"{Scope.EDGE}:A",),
    "edge without a site": (Scope.EDGE,),
    "relay": (f"{Scope.RELAY}:A",),
    "pilot": (Scope.PILOT,),
    "bootstrap": (Scope.BOOTSTRAP,),
    "worker": (Scope.WORKER,),
    "almost": ("compute.reader", "compute", "ailurus", "ailurus.admin:x", "COMPUTE.READ"),
}
OPENS = {
    Scope.READ: {"reader", "admin"},
    Scope.CREATE: {"creator", "admin"},
    Scope.CANCEL: {"canceller", "admin"},
    Scope.MODIFY: {"modifier", "admin"},
    Scope.ADMIN: {"admin"},
    Scope.EDGE: {"edge", "edge without a site"},
    Scope.RELAY: {"relay"},
    Scope.PILOT: {"pilot", "bootstrap", "admin"},
    Scope.WORKER: {"worker"},
    None: set(CALLERS),
}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_t3_only_the_allowed_cells_of_scopes_and_routes_pass(door, route):
    for name, scopes in CALLERS.items():
        token = None if scopes is None else door.token(*scopes)
        path = route.path.replace("{job_id}", "7")
        got = door.ask(
            route.method, path, {} if route.method == "POST" else None, token=token
        ).status
        reached = [asked[0] for asked in door.service.asked]
        door.service.asked.clear()
        if name in OPENS[route.scope]:
            assert got not in (401, 403) or route.name == "sign_out", name
        else:
            assert got == (401 if scopes is None else 403), name
            assert not reached, name


def test_t5_an_edge_of_one_site_cannot_speak_for_another(door):
    token = door.token(f"{Scope.EDGE}:A")
    for path in ("/edge/demand", "/edge/drain"):
        content = {"site": "B", "epoch": 1} | ({"worker_ids": [1]} if "drain" in path else {})
        assert door.ask("POST", path, content, token=token).status == 403
    assert door.ask("POST", "/edge/demand", {"site": "A", "epoch": 1}, token=token).status == 200


def test_t8_what_is_not_yours_looks_like_what_is_not_there(dispatcher):
    alice = dispatcher.token(Scope.READ, Scope.CREATE)
    mallory = dispatcher.token(Scope.READ, Scope.CANCEL, Scope.CREATE, subject="mallory")
    job = {"name": "j", "command": "true"}
    taken = dispatcher.ask("POST", "/jobs", {"request_id": "r", "jobs": [job]}, token=alice)
    mine = taken.json["job_ids"][0]
    for tail in ("", "/why", "/log", "/samples"):
        theirs = dispatcher.ask("GET", f"/jobs/{mine}{tail}", token=mallory)
        absent = dispatcher.ask("GET", f"/jobs/{mine + 1}{tail}", token=mallory)
        assert theirs.status == absent.status == 404
        assert theirs.body.replace(str(mine).encode(), b"N") == absent.body.replace(
            str(mine + 1).encode(), b"N"
        )
    for verb in ("cancel", "retry"):
        theirs = dispatcher.ask("POST", f"/jobs/{verb}", {"job_ids": [mine]}, token=mallory)
        absent = dispatcher.ask("POST", f"/jobs/{verb}", {"job_ids": [mine + 1]}, token=mallory)
        assert theirs.status == absent.status
        assert theirs.body.replace(str(mine).encode(), b"N") == absent.body.replace(
            str(mine + 1).encode(), b"N"
        )
    assert dispatcher.ask("GET", f"/jobs/{mine}", token=alice).json["row"]["state"] == "activated"


def test_t8_every_bad_token_gets_the_same_kind_of_answer(door, good):
    claims, key, _ = good
    other = jwt.encode(claims, key, "ES256", headers={"kid": "other"})
    unknown = door.token(Scope.READ, subject="nobody-knows-me", lifetime_s=-100)
    door.clock.now += 100
    answers = [
        door.ask("GET", "/overview", token=token).json for token in (other, "rubbish", unknown)
    ]
    assert {answer["title"] for answer in answers} == {"no valid token"}


@pytest.mark.parametrize(
    "scopes",
    [["ailurus.worker"], ["ailurus.bootstrap"], ["ailurus.edge"], ["ailurus.edge:"], ["ailurus.edge:a b"],
     ["compute.read:x"], ["storage.read:/"], ["ailurus.edge:A", "ailurus.edge:B"], ["a\tb"], []],
)  # fmt: skip
def test_not_even_an_administrator_is_given_every_scope(door, scopes):
    ask = {"subject": "x", "scopes": scopes}
    answer = door.ask("POST", "/tokens", ask, token=door.token(Scope.ADMIN))
    assert answer.status == 422
    assert answer.json["field"].startswith("scopes")


def test_a_token_that_was_asked_for_works(door):
    ask = {"subject": "edge-a", "scopes": ["ailurus.edge:A"], "lifetime_s": 60}
    made = door.ask("POST", "/tokens", ask, token=door.token(Scope.ADMIN)).json
    assert made["expires"] == door.clock.now + 60
    caller = door.issuer.caller(made["token"])
    assert (caller.subject, caller.site, set(caller.scopes)) == ("edge-a", "A", {Scope.EDGE})


def test_claims_of_a_bootstrap_token_come_back(door):
    claims = {"intent": "i", "index": 3, "epoch": 2, "queue": "q", "site": "A"}
    caller = door.issuer.caller(door.token(Scope.BOOTSTRAP, **claims))
    assert {name: getattr(caller, name) for name in claims} == claims


def test_a_token_of_another_dispatcher_is_not_ours(door):
    from dispatcher.auth import keys
    from dispatcher.auth.tokens import Issuer

    with pytest.raises(BadToken):
        door.issuer.caller(Issuer(keys.made(), door.clock).mint("a", [Scope.ADMIN], 60).token)


@pytest.mark.parametrize("lifetime_s", [1e300, 2.0**62, 367 * 86_400])
def test_no_token_outlives_the_memory_of_its_revocation(door, lifetime_s):
    """An edge names the deadline of its workers: one far away made a token for ever."""
    token = door.issuer.mint("bootstrap:i.0", (Scope.BOOTSTRAP,), lifetime_s)
    assert token.expires <= door.clock.now + 366 * 86_400
