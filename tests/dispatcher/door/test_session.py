"""Attack tests T6, T9 (hosts) and T10: what a browser may do."""

from __future__ import annotations

import logging

import pytest

from ailurus.protocol.api import Scope
from ailurus.protocol.errors import AilurusError
from dispatcher.door import session
from dispatcher.door.app import App
from dispatcher.door.settings import DoorSettings

OURS = {"x-ailurus": "1", "origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}


def signed_in(door, *scopes: str, **options) -> tuple[str, str]:
    token = door.token(*(scopes or (Scope.READ, Scope.CANCEL)))
    answer = door.ask(
        "POST", "/session", {"token": token}, headers=OURS | options.pop("headers", {}), **options
    )
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    return cookie, cookie.partition(";")[0]


def test_a_session_reads_as_its_token_does(door):
    _, cookie = signed_in(door)
    assert door.ask("GET", "/overview", headers={"cookie": f"a=b; {cookie}"}).status == 200
    assert (
        door.ask("POST", "/jobs/cancel", {"job_ids": [1]}, headers=OURS | {"cookie": cookie}).status
        == 200
    )
    assert door.service.asked[-1][2].subject == "alice"


def test_the_cookie_is_kept_from_scripts_and_other_sites(door):
    cookie, _ = signed_in(door)
    for part in ("HttpOnly", "SameSite=Strict", "Path=/"):
        assert part in cookie
    assert "Secure" not in cookie
    secure, _ = signed_in(door, scheme="https", headers={"origin": "https://127.0.0.1:8080"})
    assert secure.endswith("; Secure")


def test_a_session_has_no_more_rights_and_no_longer_life_than_its_token(door):
    token = door.token(Scope.READ, Scope.PILOT, lifetime_s=100)
    answer = door.ask("POST", "/session", {"token": token}, headers=OURS)
    _, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
    caller = door.issuer.caller(value)
    assert caller.scopes == {Scope.READ}
    assert caller.expires == door.clock.now + 100


@pytest.mark.parametrize("scopes", [(Scope.WORKER,), (f"{Scope.EDGE}:A",), (Scope.BOOTSTRAP,)])
def test_only_people_sign_in(door, scopes):
    answer = door.ask("POST", "/session", {"token": door.token(*scopes)}, headers=OURS)
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8080"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-ailurus": "0"},
    ],
)
def test_t10_another_page_cannot_use_the_cookie(door, headers):
    _, cookie = signed_in(door)
    asked = OURS | {"cookie": cookie} | headers
    assert door.ask("POST", "/jobs/cancel", {"job_ids": [1]}, headers=asked).status == 403
    assert (
        door.ask(
            "POST", "/session", {"token": door.token(Scope.READ)}, headers=OURS | headers
        ).status
        == 403
    )
    assert door.ask("POST", "/session/end", {}, headers=asked).status == 403
    if "x-ailurus" not in headers:
        assert door.ask("GET", "/overview", headers=asked).status == 403
    assert not door.service.asked


def test_t10_a_change_by_cookie_without_our_header_is_refused(door):
    _, cookie = signed_in(door)
    answer = door.ask("POST", "/jobs/cancel", {"job_ids": [1]}, headers={"cookie": cookie})
    assert (answer.status, answer.json["field"]) == (403, "X-Ailurus")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200), ("localhost:1", 200), ("[::1]:8080", 200), ("192.0.2.7", 200),
        ("LOCALHOST", 200), ("evil.example", 421), ("evil.example:8080", 421), ("", 421),
        ("127.0.0.1.evil.example", 421), ("localhost.", 421), ("x@127.0.0.1", 421),
    ],
)  # fmt: skip
def test_t10_a_foreign_name_that_leads_here_is_refused(door, host, status):
    assert door.ask("GET", "//healthz", headers={"host": host}).status == status


def test_signing_out_ends_the_session_and_not_the_token(dispatcher):
    door = dispatcher
    token = door.token(Scope.READ)
    answer = door.ask("POST", "/session", {"token": token}, headers=OURS)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    ended = door.ask("POST", "/session/end", {}, headers=OURS | {"cookie": cookie})
    assert "Max-Age=0" in ended.headers["set-cookie"]
    assert door.ask("GET", "/overview", headers={"cookie": cookie}).status == 401
    assert door.ask("GET", "/overview", token=token).status == 200


def test_t6_a_token_in_a_url_or_form_is_in_no_log_and_no_answer(door, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("ailurus").setLevel(logging.DEBUG)
    canary = door.token(Scope.READ, subject="canary")
    answers = [
        door.ask("GET", f"/overview?token={canary}"),
        door.ask("GET", f"/jobs?access_token={canary}", token=door.token(Scope.READ)),
        door.ask("POST", "/session", {"token": canary[:-4]}, headers=OURS),
        door.ask("POST", "/session", {"tokne": canary}, headers=OURS),
        door.ask("GET", "/overview", token=canary + "x"),
    ]
    assert all(answer.status >= 400 for answer in answers)
    logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    everything = logged + "".join(answer.body.decode() for answer in answers)
    assert canary.partition(".")[2] not in everything


# --- behind a proxy that ends TLS -----------------------------------------------------------------

BEHIND = {"x-ailurus": "1", "origin": "https://grid.example", "sec-fetch-site": "same-origin"}


@pytest.fixture
def behind(door):
    """The same door, told how browsers find it."""
    public = session.Public.of("https://Grid.example/ailurus/")
    door.app = App(door.service.handlers(), door.issuer, DoorSettings(public=public))
    return door


@pytest.mark.field("W7")
@pytest.mark.parametrize("host", ["grid.example", "127.0.0.1:8080"])
def test_a_console_behind_a_proxy_signs_in_and_acts(behind, host):
    headers = BEHIND | {"host": host}
    answer = behind.ask("POST", "/session", {"token": behind.token(Scope.READ)}, headers=headers)
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert cookie.endswith("; Secure")
    asked = headers | {"cookie": cookie.partition(";")[0]}
    assert behind.ask("GET", "/overview", headers=asked).status == 200


@pytest.mark.field("W7")
@pytest.mark.parametrize(
    "origin",
    [
        "http://grid.example",
        "https://grid.example:8443",
        "https://grid.example.evil.example",
        "null",
    ],
)
def test_no_other_origin_is_let_in_by_a_public_address(behind, origin):
    headers = BEHIND | {"host": "grid.example", "origin": origin}
    answer = behind.ask("POST", "/session", {"token": behind.token(Scope.READ)}, headers=headers)
    assert answer.status == 403


@pytest.mark.field("W7")
def test_a_refused_origin_says_what_to_start_it_with(door):
    headers = BEHIND | {"host": "127.0.0.1:8080"}
    told = door.ask("POST", "/session", {"token": "x"}, headers=headers).json
    assert "--public-url https://grid.example" in told["remedy"]
    hostile = headers | {"origin": "https://x'; rm -rf ~"}
    told = door.ask("POST", "/session", {"token": "x"}, headers=hostile).json
    assert told["remedy"].endswith("--public-url URL")


def test_what_still_comes_without_the_proxy_is_served_as_before(behind):
    answer = behind.ask("POST", "/session", {"token": behind.token(Scope.READ)}, headers=OURS)
    assert answer.status == 200
    assert "Secure" not in answer.headers["set-cookie"]


@pytest.mark.field("W7")
@pytest.mark.parametrize(
    "url",
    ["grid.example", "ftp://h", "https://u:p@h", "https://h?x=1", "https://h:99999", "https://"],
)
def test_a_public_address_that_is_none_is_refused_with_its_field(url):
    with pytest.raises(AilurusError) as refused:
        session.Public.of(url)
    assert refused.value.field == "--public-url"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://h:443/", b"https://h"),
        ("http://h:8080/a/", b"http://h:8080"),
        ("https://[::1]:8443", b"https://[::1]:8443"),
    ],
)
def test_an_origin_is_written_as_browsers_do(url, origin):
    assert session.Public.of(url).origin == origin
