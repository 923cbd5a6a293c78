"""Who may say what in PanDA's dialects: each scope, and no token, at each method."""

from __future__ import annotations

from pathlib import Path

import pytest

from ailurus.protocol.api import Scope
from dispatcher.panda import legacy, v1
from tests.dispatcher.panda.conftest import Dispatcher

ALLOWED = {Scope.PILOT, Scope.ADMIN}
REFUSALS = {
    "SSL secure connection is required",
    "production or pilot role required",
    "no production/pilot role in VOMS FQANs or non pilot owner",
}


def spoken(dispatcher: Dispatcher, path: str, token: str | None) -> dict[str, object]:
    method = v1.METHODS[path]
    given = {one.name: example(one.kind) for one in method.arguments if one.required}
    how = "get" if method.verb == "GET" else "json"
    return dispatcher.v1(path, given, how=how, token=token)


def example(kind: type) -> object:
    return {int: 1, str: "q", list: [], dict: {}, float: 1.0, bool: True}.get(kind, "q")


@pytest.mark.parametrize("scope", list(Scope))
def test_t3_each_scope_opens_the_v1_methods_it_should_and_no_other(dispatcher, scope):
    word = f"{scope}:SITE" if scope in (Scope.EDGE, Scope.RELAY) else scope
    token = dispatcher.token(word)
    for path, method in v1.METHODS.items():
        refused = spoken(dispatcher, path, token)["message"] in REFUSALS
        needs_role = method.production or method.admin or path == "pilot/acquire_jobs"
        allowed = scope is Scope.ADMIN or (scope is Scope.PILOT and not method.admin)
        own_role = path == "creds/get_token_key" and scope not in ALLOWED
        other_role = path == "creds/get_access_token"  # no key was shown
        if other_role:
            continue
        assert refused == ((needs_role and not allowed) or own_role), (scope, path)


def test_t11_v1_without_a_token_is_refused(dispatcher):
    refusal = {"success": False, "message": "SSL secure connection is required", "data": None}
    for path, method in v1.METHODS.items():
        answer = spoken(dispatcher, path, None)
        assert (answer == refusal) != method.free, path


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope not in ALLOWED])
def test_t3_no_other_scope_opens_a_legacy_method(dispatcher, scope):
    word = f"{scope}:SITE" if scope in (Scope.EDGE, Scope.RELAY) else scope
    token = dispatcher.token(word)
    for name in legacy._NAMES:
        answer = dispatcher.ask(f"/server/panda/{name}", {}, "form", token=token)
        expected = "alive=yes" if name in legacy.FREE else "StatusCode=60"
        assert (answer.status, answer.text) == (200, expected), (scope, name)


@pytest.mark.parametrize("name", ["getJob", "updateJob"])
def test_a_user_who_reads_json_is_told_in_words_that_it_is_no_pilot(dispatcher, name):
    user = dispatcher.token(Scope.READ, Scope.CREATE)
    words = "no production/pilot role in VOMS FQANs or non pilot owner"
    told = dispatcher.legacy(name, {"siteName": "q", "jobId": 1, "state": "running"}, token=user)
    assert told == {"StatusCode": 60, "errorDialog": words}


def test_t11_legacy_without_a_token_is_refused(dispatcher):
    for name in legacy._NAMES.keys() - legacy.FREE:
        answer = dispatcher.ask(f"/server/panda/{name}", {"siteName": "q"}, "form", token=None)
        assert (answer.status, answer.text) == (403, "ERROR : a token is required"), name


def test_t11_only_pilots_of_an_open_queue_need_no_token(opened, job):
    opened.submit(job("open"), job("closed", queue="other"))
    job_of = {"siteName": "q", "node": "n"}
    assert opened.legacy("getJob", job_of, token=None)["jobName"] == "open"
    refused = opened.ask("/server/panda/getJob", {"siteName": "other"}, "form", token=None)
    assert refused.status == 403
    for name in legacy._NAMES.keys() - {"isAlive"}:
        answer = opened.ask(f"/server/panda/{name}", {"siteName": "q"}, "form", token=None)
        assert (answer.status == 403) == (name not in legacy.OPEN | legacy.FREE), name


def test_t11_who_has_no_token_cannot_touch_the_jobs_of_other_queues(opened, job):
    opened.submit(job("closed", queue="other"))
    theirs = opened.get_job("other")
    update = {"jobId": theirs["PandaID"], "attemptNr": 1, "state": "failed"}
    assert opened.legacy("updateJob", update, token=None)["command"] == "tobekilled"
    assert opened.state(theirs["PandaID"]) == "sent"
    told = opened.legacy("checkJobStatus", {"ids": str(theirs["PandaID"])}, token=None)
    assert told["data"] == [{"status": "unknown", "command": "tobekilled"}]


def test_a_token_that_is_not_good_never_counts_as_none(opened):
    for token in ("x", "x.y.z"):
        answer = opened.ask("/server/panda/getJob", {"siteName": "q"}, "form", token=token)
        assert answer.status == 403
        assert answer.text.startswith("ERROR : token refused")
        assert (
            opened.ask("/api/v1/pilot/acquire_jobs", {"site_name": "q"}, token=token).status == 403
        )


def test_an_expired_token_is_refused(dispatcher):
    token = dispatcher.token(Scope.PILOT)
    dispatcher.clock.now += 2 * 86_400
    answer = dispatcher.ask("/server/panda/getJob", {"siteName": "q"}, "form", token=token)
    assert answer.status == 403


def test_a_token_is_renewed_only_for_who_has_a_good_one_and_the_key(dispatcher):
    key = dispatcher.v1("creds/get_token_key", {"client_name": "pilots"}, how="get")["data"]
    ask = {"client_name": "pilots", "token_key": key["tokenKey"]}
    renewed = dispatcher.v1("creds/get_access_token", ask, how="get")["data"]["user_proxy"]
    assert dispatcher.issuer.caller(renewed).may(Scope.PILOT)
    wrong = dispatcher.v1("creds/get_access_token", ask | {"token_key": "x"}, how="get")
    assert wrong["success"] is False
    reader = dispatcher.token(Scope.READ)
    denied = dispatcher.v1("creds/get_access_token", ask, how="get", token=reader)
    assert denied["success"] is False


def test_files_for_pilots_are_served_without_a_token_and_nothing_beside_them(dispatcher):
    assert dispatcher.raw("GET", "/trf/user/runailurus", token=None).body.startswith(b"#!")
    assert dispatcher.raw("GET", "/cache/schedconfig/q.all.json", token=None).status == 200
    for path in (
        "/trf/../queue.db",
        "/trf/job/1.1.1." + "0" * 40,
        "/cache/schedconfig/..%2fx.json",
    ):
        assert dispatcher.raw("GET", path, token=None).status == 404
    assert Path(dispatcher.path, "queue.db").exists()
