"""Tokens of another issuer: a real HTTPS server that publishes keys and signs."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
import trustme
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ailurus.protocol.api import Scope
from ailurus.protocol.errors import AilurusError
from dispatcher.auth import oidc
from dispatcher.auth.oidc import Foreign
from dispatcher.door.app import App
from dispatcher.door.settings import DoorSettings
from dispatcher.panda.door import Panda, PandaSettings

AUDIENCE = "https://dispatcher.example.org"
PILOTS = "/atlas/pilots"


class Iam:
    """An issuer on loopback. What it publishes can be changed while it runs."""

    def __init__(self, ca: trustme.CA) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.published = {"rsa": ("RS256", self.rsa), "ec": ("ES256", self.ec)}
        self.asked: list[str] = []
        self.discovery: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = json.dumps(outer.page(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def page(self, path: str) -> dict[str, object]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}jwk", **self.discovery}
        keys = []
        for kid, (algorithm, key) in self.published.items():
            name = jwt.get_algorithm_by_name(algorithm)
            keys.append(json.loads(name.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"})
        return {"keys": [*keys, {"kty": "oct", "kid": "oct", "k": "c2VjcmV0"}]}

    def token(self, kid="rsa", key=None, algorithm=None, header=(), **claims) -> str:
        default, own = self.published.get(kid, ("RS256", self.rsa))
        now = time.time()
        content = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "8f2c",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "jti": "j1",
            **claims,
        }
        content = {name: value for name, value in content.items() if value is not None}
        return jwt.encode(
            content, key or own, algorithm or default, headers={"kid": kid, **dict(header)}
        )

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def iam(ca):
    made = Iam(ca)
    yield made
    made.close()


@pytest.fixture
def policy(iam, ca, tmp_path):
    """A policy file for the issuer, as an operator writes it."""
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")

    def written(**changes) -> oidc.Policy:
        one = {
            "issuer": iam.url,
            "audience": [AUDIENCE, "https://wlcg.cern.ch/jwt/v1/any"],
            "name": "iam",
            "ca": str(tmp_path / "ca.pem"),
            "scopes": ["compute.read", "compute.create"],
            "rules": [
                {"claim": "wlcg.groups", "has": PILOTS, "scopes": ["ailurus.pilot"]},
                {"claim": "sub", "has": "boss", "scopes": ["ailurus.admin"]},
                {"claim": "edge", "has": "here", "scopes": ["ailurus.edge:HERE"]},
            ],
            **changes,
        }
        (tmp_path / "oidc.yaml").write_text(yaml.safe_dump({"issuers": [one]}))
        return oidc.read(tmp_path / "oidc.yaml")

    return written


@pytest.fixture
def trusting(dispatcher, policy):
    """A dispatcher that takes the issuer's tokens, and has not spoken to it yet."""
    dispatcher.issuer.trust(Foreign(policy()))
    return dispatcher


def asked(door, token, path="/overview", method="GET", content=None):
    return door.ask(method, path, content, token=token)


READS = {"scope": "compute.read openid"}


@pytest.mark.parametrize("kid", ["rsa", "ec"])
def test_a_token_of_a_trusted_issuer_opens_what_the_policy_says(trusting, iam, kid):
    assert asked(trusting, iam.token(kid, **READS)).status == 200
    assert asked(trusting, iam.token(kid)).status == 403
    assert (
        asked(trusting, iam.token(kid, **READS, aud="https://wlcg.cern.ch/jwt/v1/any")).status
        == 200
    )
    assert asked(trusting, trusting.token(Scope.READ)).status == 200  # ours still do


def test_groups_and_subjects_become_roles(trusting, iam):
    register = {"instance": "i", "queue": "q", "total": {"cores": 1}}
    pilot = iam.token(**{"wlcg.groups": ["/atlas", PILOTS]})
    assert asked(trusting, pilot, "/worker/register", "POST", register).status == 200
    other = iam.token(**{"wlcg.groups": [PILOTS + "/x"]})
    assert asked(trusting, other, "/worker/register", "POST", register).status == 403
    assert asked(trusting, iam.token(sub="boss"), "/events").status == 200
    edge = {"site": "HERE", "instance": "e", "slots": []}
    assert asked(trusting, iam.token(edge="here"), "/edge/hello", "POST", edge).status == 200
    assert (
        asked(trusting, iam.token(edge="here"), "/edge/hello", "POST", edge | {"site": "B"}).status
        == 403
    )


def test_the_groups_of_a_token_are_the_callers_in_the_order_of_its_claim(dispatcher, policy, iam):
    groups = ["/atlas/production", "/atlas"]
    for name in ("wlcg.groups", "entitled"):
        dispatcher.issuer.trust(Foreign(policy(groups=name)))
        token = iam.token(**READS, **{name: groups})
        assert asked(dispatcher, token).status == 200
        assert dispatcher.issuer.caller(token).groups == tuple(groups)
    assert dispatcher.issuer.caller(iam.token(entitled=[7, None, "a"])).groups == ("a",)
    assert dispatcher.issuer.caller(iam.token(entitled={"a": 1})).groups == ()


def test_a_user_of_the_issuer_is_not_ours_of_the_same_name(trusting, iam):
    job = {"request_id": "r", "jobs": [{"name": "j", "command": "true"}]}
    ours = trusting.token(Scope.READ, Scope.CREATE, subject="8f2c")
    (mine,) = asked(trusting, ours, "/jobs", "POST", job).json["job_ids"]
    theirs = iam.token(scope="compute.read compute.create")
    assert asked(trusting, theirs, f"/jobs/{mine}").status == 404
    (job_id,) = asked(trusting, theirs, "/jobs", "POST", job).json["job_ids"]
    assert asked(trusting, theirs, f"/jobs/{job_id}").json["row"]["user"] == "iam:8f2c"


def test_what_the_token_asks_for_beyond_the_policy_is_not_given(trusting, iam):
    token = iam.token(scope="ailurus.admin ailurus.worker compute.cancel compute.read")
    assert trusting.issuer.foreign is not None
    assert asked(trusting, token).status == 200
    assert trusting.issuer.caller(token).scopes == {Scope.READ}


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example"},
        {"aud": None},
        {"iss": "https://evil.example/"},
        {"exp": 1},
        {"exp": None},
        {"nbf": 4e9},
        {"sub": None},
        {"sub": 7},
        {"exp": "soon"},
    ],
)
def test_t2_a_foreign_token_that_is_not_good_is_refused(trusting, iam, claims):
    assert asked(trusting, iam.token(**READS)).status == 200
    assert asked(trusting, iam.token(**READS | claims)).status == 401


def test_t1_forged_foreign_tokens_are_refused(trusting, iam):
    assert asked(trusting, iam.token(**READS)).status == 200
    public = iam.rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    good = iam.token(**READS)
    head, body, signature = good.split(".")
    stranger = rsa.generate_private_key(65537, 2048)

    def headed(**header) -> str:
        text = json.dumps({"alg": "RS256", "kid": "rsa", **header}).encode()
        return f"{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}.{body}.{signature}"

    forged = [
        iam.token(key=stranger, **READS),
        iam.token("ec", key=stranger, algorithm="RS256", **READS),
        iam.token("rsa", key=iam.ec, algorithm="ES256", **READS),
        iam.token("rsa", algorithm="RS512", **READS),  # good, but not allowed by the policy
        iam.token("oct", key="secret" * 8, algorithm="HS256", **READS),
        iam.token(header={"jku": "https://evil.example/jwk"}, **READS),
        iam.token(header={"x5u": "https://evil.example/"}, **READS),
        headed(alg="none"),
        f"{headed(alg='none').rpartition('.')[0]}.",
        headed(alg="HS256"),
        headed(kid=["rsa"]),
        headed(kid={"a": 1}),
        f"{head}.{body}.",
        f"{head}.{body[:-2]}.{signature}",
        public.decode(),
        "a.b.c",
    ]
    assert [asked(trusting, token).status for token in forged] == [401] * len(forged)


def test_a_key_that_is_new_is_fetched_when_it_is_first_seen(trusting, iam):
    assert asked(trusting, iam.token(**READS)).status == 200
    iam.published["next"] = ("RS256", rsa.generate_private_key(65537, 2048))
    assert asked(trusting, iam.token("next", **READS)).status == 401  # asked within this minute
    for ring in trusting.issuer.foreign._rings.values():
        ring._tried -= oidc.AGAIN_S
    assert asked(trusting, iam.token("next", **READS)).status == 200


def test_unknown_keys_do_not_make_us_ask_more_than_once_a_minute(trusting, iam):
    for nr in range(20):
        assert asked(trusting, iam.token(f"made-up-{nr}", **READS)).status == 401
    assert len(iam.asked) == 2  # the discovery document and the keys


def test_an_issuer_that_is_down_leaves_its_known_keys_good(trusting, iam):
    first, second = iam.token(**READS), iam.token(**READS, jti="j2")
    assert asked(trusting, first).status == 200
    iam.close()
    try:
        for ring in trusting.issuer.foreign._rings.values():
            ring._tried -= oidc.AGAIN_S
        assert asked(trusting, iam.token("unknown", **READS)).status == 401
        assert asked(trusting, second).status == 200
    finally:
        iam.server.server_close()
        iam.close = lambda: None


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://evil.example/"},
        {"jwks_uri": "http://192.0.2.1/jwk"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 7},
    ],
)
def test_a_discovery_document_that_leads_elsewhere_is_not_followed(trusting, iam, discovery):
    iam.discovery = discovery
    assert asked(trusting, iam.token(**READS)).status == 401
    assert iam.asked == ["/.well-known/openid-configuration"]


def test_t7_a_foreign_token_is_revoked_here(trusting, iam):
    token = iam.token(**READS)
    assert asked(trusting, token).status == 200
    boss = trusting.token(Scope.ADMIN)
    asked(trusting, boss, "/tokens/revoke", "POST", {"subject": "iam:8f2c"})
    assert asked(trusting, token).status == 401


def test_a_browser_signs_in_with_a_foreign_token(trusting, iam):
    headers = {"x-ailurus": "1"}
    answer = trusting.ask("POST", "/session", {"token": iam.token(**READS)}, headers=headers)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert trusting.ask("GET", "/overview", headers={"cookie": cookie}).status == 200


def test_a_client_of_panda_comes_with_a_foreign_token(trusting, iam):
    trusting.app = App(
        trusting.service.handlers(),
        trusting.issuer,
        DoorSettings(panda=Panda(trusting.service, trusting.issuer, PandaSettings())),
    )
    form = {"content-type": "application/x-www-form-urlencoded"}
    pilot = iam.token(**{"wlcg.groups": [PILOTS]})

    def get_job(token):
        return trusting.ask(
            "POST", "//server/panda/getJob", token=token, body=b"siteName=q", headers=form
        )

    assert get_job(iam.token(aud="https://other.example")).status == 403
    answer = get_job(pilot)
    assert (answer.status, b"StatusCode" in answer.body) == (200, True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"issuer": "http://iam.example.org"}, "issuer"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"scopes": ["ailurus.worker"]}, "scopes"),
        ({"scopes": ["ailurus.edge"]}, "scopes"),
        ({"rules": [{"scopes": ["everything"]}]}, "scopes"),
        ({"rules": [{"scope": ["compute.read"]}]}, "rules"),
        ({"name": "worker"}, "name"),
        ({"name": "a:b"}, "name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_policy_that_would_trust_too_much_is_refused_with_its_field(policy, changes, field):
    with pytest.raises(AilurusError) as caught:
        policy(**changes)
    assert field in f"{caught.value.field} {caught.value}"
