"""What the door says to what it does not like: H4, problems, methods, sizes, bugs of ours."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from ailurus.protocol.api import Scope
from dispatcher.door import http
from dispatcher.ports import Unavailable

DEEP = 100_000


@pytest.fixture
def worker(door):
    return door.token(Scope.WORKER, worker_id=1, site="A", queue="q")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, "room"),
        (b"{", 400, ""),
        (b"\xff\xfe", 400, ""),
        (b"[" * DEEP, 422, ""),
        (b'{"room":' + b"[" * DEEP, 422, "room"),
        (b'{"room":{"cores":1},"jobs":' + b"[" * DEEP, 422, "jobs[0]"),
        (b'{"room":{"z":' + b"[" * DEEP + b"]" * DEEP + b"}}", 400, ""),
        (b'{"room":{"cores":NaN}}', 400, ""),
        (b'{"room":{"seconds_left":1e400}}', 422, "room.seconds_left"),
        (b'{"room":{"cores":18446744073709551616}}', 422, "room.cores"),
        (b'{"room":{"cores":"1"}}', 422, "room.cores"),
        (b'{"room":{},"jobs":[{"job_id":18446744073709551616}]}', 422, "jobs[0].job_id"),
        (b"[]", 422, ""),
        (b"null", 422, ""),
    ],
)
def test_h4_hostile_json_is_refused_quickly_with_the_field(door, worker, body, status, field):
    began = time.perf_counter()
    answer = door.ask("POST", "/worker/beat", body=body, token=worker)
    assert time.perf_counter() - began < 0.5
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["field"] == field
    assert not door.service.asked


def test_h4_duplicate_keys_do_no_harm(door, worker):
    answer = door.ask("POST", "/worker/beat", body=b'{"room":{"cores":1,"cores":2}}', token=worker)
    assert answer.status == 200
    assert door.service.asked[0][1].room.cores == 2


def test_a_misspelt_field_is_told_with_the_right_one(door):
    jobs = [{"name": "a", "command": "true"}, {"name": "b", "comand": "true"}]
    ask = {"request_id": "r", "jobs": jobs}
    problem = door.ask("POST", "/jobs", ask, token=door.token(Scope.CREATE)).json
    assert problem["field"] == "jobs[1].comand"
    assert "`command`" in problem["remedy"]


def test_a_field_that_is_missing_is_named_and_asked_for(door):
    ask = {"request_id": "r", "jobs": [{"name": "a"}, {"command": "true"}]}
    problem = door.ask("POST", "/jobs", ask, token=door.token(Scope.CREATE)).json
    assert (problem["field"], problem["remedy"]) == ("jobs[1].name", "give it")
    problem = door.ask("GET", "/jobs/7/tail", token=door.token(Scope.READ)).json
    assert problem["field"] == "file"


def test_a_pattern_is_told_in_words_and_other_types_fields_are_no_remedy(door):
    ask = {"request_id": "a b", "jobs": [{"name": "a"}]}
    problem = door.ask("POST", "/jobs", ask, token=door.token(Scope.CREATE)).json
    assert problem["field"] == "request_id"
    assert problem["remedy"] == "letters, digits and signs of ASCII, without spaces"
    ask = {"job_idz": [1]}
    problem = door.ask("POST", "/jobs/cancel", ask, token=door.token(Scope.CANCEL)).json
    assert (problem["field"], problem["remedy"]) == ("job_idz", "")


@pytest.mark.parametrize(
    "command", [r"\ud800", r"\udc00", r"\uDBFF and more", r"\udc00\ud800", r"\ud800\u0041"]
)
@pytest.mark.parametrize("more", ["", ', "queue": "a queue"'])
def test_half_a_surrogate_pair_is_called_so(door, command, more):
    body = f'{{"request_id": "r", "jobs": [{{"name": "a", "command": "{command}"{more}}}]}}'
    token = door.token(Scope.CREATE)
    for spaces in (0, http.BIG):
        answer = door.ask("POST", "/jobs", body=body.encode() + b" " * spaces, token=token)
        assert answer.status == 400
        assert answer.json["title"] == "half a surrogate pair is no character"


@pytest.mark.parametrize("end", ["", '"', r"\ud83d", r"\\ud800", r"\\ud800\"", r"\ud83d\ude00"])
def test_a_body_that_is_cut_off_is_called_so(door, end):
    body = f'{{"request_id": "r", "jobs": [{{"name": "a", "command": "{end}'
    answer = door.ask("POST", "/jobs", body=body.encode(), token=door.token(Scope.CREATE))
    assert (answer.status, answer.json["detail"]) == (400, "Input data was truncated")


def test_a_big_submission_is_read_as_a_small_one_while_others_are_served(door):
    jobs = [{"name": f"j{nr}", "command": "x" * 1000} for nr in range(2000)]
    token = door.token(Scope.CREATE)
    assert door.ask("POST", "/jobs", {"request_id": "r", "jobs": jobs}, token=token).status == 200
    asked = door.service.asked[0][1]
    assert [job.name for job in asked.jobs] == [job["name"] for job in jobs]
    jobs[1234]["cores"] = "four"
    problem = door.ask("POST", "/jobs", {"request_id": "r", "jobs": jobs}, token=token)
    assert (problem.status, problem.json["field"]) == (422, "jobs[1234].cores")
    del jobs[1234]["cores"]
    problem = door.ask("POST", "/jobs", {"jobs": jobs}, token=token)
    assert problem.status == 422


def test_decoding_a_big_submission_gives_way(door):
    body = json.dumps(
        {
            "request_id": "r",
            "jobs": [{"name": f"j{nr}", "command": "x" * 1000} for nr in range(5000)],
        }
    ).encode()

    async def longest_wait() -> float:
        task = asyncio.create_task(http.decode_submission(body))
        longest = 0.0
        while not task.done():
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)
        return longest

    assert door.runner.run(longest_wait()) < 0.1


def test_a_body_in_pieces_is_put_together(door, worker):
    answer = door.ask("POST", "/worker/beat", {"room": {"cores": 3}}, token=worker, pieces=5)
    assert answer.status == 200
    assert door.service.asked[0][1].room.cores == 3


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_submission_in_pieces_is_put_together_with_and_without_its_length(
    door, declared, monkeypatch
):
    monkeypatch.delattr(http, "_one_by_one")  # what our clients write is decoded in parts
    jobs = [{"name": f"j{nr}", "command": "x" * 1000} for nr in range(500)]
    length = {} if declared else {"content-length": "0"}
    content = {"request_id": "r", "jobs": jobs}
    token = door.token(Scope.CREATE)
    answer = door.ask("POST", "/jobs", content, token=token, headers=length, pieces=7)
    assert answer.status == 200
    assert [job.name for job in door.service.asked[0][1].jobs] == [job["name"] for job in jobs]


@pytest.mark.parametrize(("missing", "status"), [(-1, 413), (1, 400)])
def test_a_large_body_that_has_not_its_declared_length_is_refused(door, missing, status):
    body = b" " * (2 * http.BIG)
    length = {"content-length": str(len(body) + missing)}
    token = door.token(Scope.CREATE)
    answer = door.ask("POST", "/jobs", body=body, token=token, headers=length, pieces=3)
    assert answer.status == status


@pytest.mark.parametrize("honest", [True, False])
def test_a_body_that_is_too_long_is_not_read_to_its_end(door, worker, honest):
    body = b" " * (http.LONGEST_BODY + 1)
    said = {} if honest else {"content-length": "2"}
    answer = door.ask("POST", "/worker/acquire", body=body, token=worker, headers=said, pieces=9)
    assert answer.status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-length": "-1"}, 413),
        ({"content-length": "9" * 30}, 413),
    ],
)
def test_a_body_of_another_kind_is_refused(door, worker, headers, status):
    answer = door.ask("POST", "/worker/beat", {"room": {}}, token=worker, headers=headers)
    assert answer.status == status


def test_a_body_that_never_comes_is_given_up(door, worker, monkeypatch):
    monkeypatch.setattr(http, "BODY_S", 0.01)
    scope_headers = [
        (b"host", b"127.0.0.1"),
        (b"authorization", f"Bearer {worker}".encode()),
        (b"content-length", b"100"),
    ]
    scope = {
        "type": "http", "method": "POST", "scheme": "http", "query_string": b"",
        "path": "/api/ailurus/v1/worker/beat", "headers": scope_headers,
    }  # fmt: skip
    sent, parts = [], [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        if parts:
            return parts.pop()
        return await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    door.runner.run(door.app(scope, receive, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("limit=0", 422, "limit"),
        ("limit=x", 422, "limit"),
        ("limit=1&limit=2", 422, "limit"),
        ("before=18446744073709551616", 422, "before"),
        ("stat=failed", 422, "stat"),
        ("name=" + "x" * 300, 422, "name"),
        ("%ff=1", 400, ""),
        ("name=%ff", 400, ""),
        ("&".join(f"a{nr}=1" for nr in range(100)), 400, ""),
    ],
)
def test_a_wrong_query_names_the_field(door, query, status, field):
    answer = door.ask("GET", f"/jobs?{query}", token=door.token(Scope.READ))
    assert answer.status == status
    assert answer.json["field"] == field
    assert not door.service.asked


def test_a_query_is_typed(door):
    door.ask("GET", "/jobs?state=failed,closed&limit=7&name=a%2Bb", token=door.token(Scope.READ))
    query = door.service.asked[0][1]
    assert (query.state, query.limit, query.name) == ("failed,closed", 7, "a+b")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/jobs/",
        "/jobs/x",
        "/jobs/-1",
        "/jobs/1/x",
        "/jobs/²",
        "/jobs/" + "9" * 40,
        "//x",
    ],
)
def test_an_unknown_path_is_not_found(door, path):
    assert door.ask("GET", path, token=door.token(Scope.READ)).status == 404


def test_a_wrong_method_is_told_the_right_one(door):
    answer = door.ask("DELETE", "/jobs", token=door.token(Scope.ADMIN))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
    assert door.ask("POST", "/jobs/7", {}).headers["allow"] == "GET"


def test_a_job_id_arrives_as_a_number(door):
    door.service.show = None
    asked = []
    endpoint = door.app._router._by_id[""]["GET"]

    async def show(ask, caller, job_id):
        asked.append(job_id)
        return {}

    import msgspec

    door.app._router._by_id[""]["GET"] = msgspec.structs.replace(endpoint, handler=show)
    for text in ("7", "007", str(2**63 - 1)):
        assert door.ask("GET", f"/jobs/{text}", token=door.token(Scope.READ)).status == 200
    assert asked == [7, 7, 2**63 - 1]


def test_a_job_id_beyond_all_numbers_is_told_as_it_was_asked(door):
    answer = door.ask("GET", "/jobs/9223372036854775808", token=door.token(Scope.READ))
    assert (answer.status, answer.json["field"]) == (404, "job_id")
    assert answer.json["title"] == "there is no job 9223372036854775808"
    assert door.ask("GET", "/jobs/9223372036854775808").status == 401


def test_a_bug_of_ours_is_a_500_without_its_trace(door, logged):
    async def broken(ask, caller):
        raise KeyError("secret of the inside")

    import msgspec

    endpoint = door.app._router._plain["/overview"]["GET"]
    door.app._router._plain["/overview"]["GET"] = msgspec.structs.replace(endpoint, handler=broken)
    answer = door.ask("GET", "/overview", token=door.token(Scope.READ))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    (line,) = [line for line in logged if line.get("exc_info")]
    assert line["id"] in answer.json["detail"]


def test_a_store_that_cannot_write_is_a_503_to_try_again(door):
    import msgspec

    async def full(ask, caller):
        raise Unavailable("no space left")

    endpoint = door.app._router._plain["/overview"]["GET"]
    door.app._router._plain["/overview"]["GET"] = msgspec.structs.replace(endpoint, handler=full)
    answer = door.ask("GET", "/overview", token=door.token(Scope.READ))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_who_waits_is_answered_as_things_are_when_the_dispatcher_stops(door, worker):
    import msgspec

    async def patient(ask, caller):
        await asyncio.sleep(ask.wait_s)
        return {"jobs": []}

    endpoint = door.app._router._plain["/worker/acquire"]["POST"]
    door.app._router._plain["/worker/acquire"]["POST"] = msgspec.structs.replace(
        endpoint, handler=patient
    )
    loop = door.runner.get_loop()
    loop.call_later(0.05, door.app.close)
    ask = {"request_id": "r", "room": {}, "wait_s": 30}
    answer = door.ask("POST", "/worker/acquire", ask, token=worker)
    assert (answer.status, answer.json) == (200, {"jobs": []})
    assert door.ask("GET", "//readyz").status == 503
    assert door.ask("GET", "//healthz").status == 200


def test_health_needs_no_token(door):
    assert door.ask("GET", "//healthz").status == 200
    assert door.ask("GET", "//readyz").status == 200


@pytest.mark.parametrize("header", ["host", "authorization", "content-type"])
def test_a_header_that_decides_may_not_come_twice(door, header):
    scope = {
        "type": "http", "method": "GET", "scheme": "http", "query_string": b"", "path": "/healthz",
        "headers": [(b"host", b"localhost"), (header.encode(), b"localhost"), (header.encode(), b"x")],
    }  # fmt: skip
    sent = []

    async def send(message):
        sent.append(message)

    door.runner.run(door.app(scope, None, send))
    assert sent[0]["status"] == 400


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_r6_a_request_that_finds_no_memory_or_thread_is_told_to_come_again(door, error):
    import msgspec

    async def short(ask, caller):
        raise error

    endpoint = door.app._router._plain["/overview"]["GET"]
    door.app._router._plain["/overview"]["GET"] = msgspec.structs.replace(endpoint, handler=short)
    answer = door.ask("GET", "/overview", token=door.token(Scope.READ))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
