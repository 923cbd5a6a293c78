"""Who may not ask costs nothing but its head; who may, costs what is bounded before it is read."""

from __future__ import annotations

import gzip
import json
import threading
import time

import pytest

from ailurus.protocol.api import Scope
from ailurus.protocol.job import JobSpec
from dispatcher.panda import bodies, legacy, v1
from dispatcher.panda.door import PandaSettings
from dispatcher.refusal import Rejected
from tests.dispatcher.panda.conftest import Dispatcher

pytestmark = pytest.mark.field("A7")

PATHS = [f"/server/panda/{name}" for name in legacy._NAMES if name not in legacy.FREE] + [
    f"/api/v1/{method.path}" for method in v1.METHODS.values() if not method.free
]
BOMB = b"[" + b",".join([b"[]"] * 2_700_000) + b"]"


def asked(dispatcher, path: str, token: str | None) -> tuple[int, bytes]:
    """The answer to a request whose body nobody may read."""
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1:8080", "content-length": "9", "content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    scope = {
        "type": "http", "method": "POST", "scheme": "http", "path": path, "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    dispatcher.run(dispatcher.app(scope, receive, send))
    return sent[0]["status"], sent[-1]["body"]


def test_a_body_is_not_read_before_its_sender_may_ask(dispatcher):
    reader = dispatcher.token(Scope.READ)  # no pilot's role
    for path in PATHS:
        status, body = asked(dispatcher, path, None)
        assert status == 403 or b"secure connection" in body, path
        assert asked(dispatcher, path, "no.such.token")[0] == 403
        method = v1.METHODS.get(path.removeprefix("/api/v1/"))
        if method is None or method.production or method.admin:
            asked(dispatcher, path, reader)


@pytest.fixture
def opened(some_keys, tmp_path):
    made = Dispatcher(tmp_path, some_keys, PandaSettings(open_queues=frozenset({"q"})))
    yield made
    made.close()


def bomb(size: int) -> tuple[bytes, dict[str, str]]:
    text = b'{"siteName": "q", "node": ' + BOMB[:1] + b",".join([b"[]"] * size) + b"]}"
    return gzip.compress(text), {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/server/panda/getJob", "/api/v1/pilot/acquire_jobs"])
def test_small_packed_bodies_of_many_values_are_refused_unread(opened, path):
    for token, size in ((None, bodies.VALUES // bodies.ANONYMOUS_PART), ("", bodies.VALUES)):
        body, headers = bomb(size + 1)
        assert len(body) < 8000
        assert opened.raw("POST", path, body, headers, token=token).status == 413


def test_the_values_are_counted_in_a_fraction_of_the_time_that_they_would_take():
    whole = b'{"a":' + BOMB + b"}"
    began = time.process_time()
    with pytest.raises(Rejected) as refused:
        bodies.check_values(whole)
    assert refused.value.status == 413
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    "text", ["," * 200_000, "[{,\\\\" * 50_000, '\\",[' * 50_000, "\\\\\\" + '"[,' * 60_000]
)
def test_signs_in_a_text_are_no_values(text):
    bodies.check_values(json.dumps({"stdout": json.loads(json.dumps(text)), "n": [1, 2]}).encode())


@pytest.mark.parametrize("text", ['"",' * 300_000, '"\\\\",' * 150_000, '{"a":[' * 60_000])
def test_values_between_texts_are_values(text):
    with pytest.raises(Rejected):
        bodies.check_values(b"[" + text.encode())


def test_nobody_may_send_as_much_as_a_pilot(opened):
    body = json.dumps(
        {"siteName": "q", "node": "x" * (bodies.LONGEST // bodies.ANONYMOUS_PART)}
    ).encode()
    kind = {"content-type": "application/json"}
    assert opened.raw("POST", "/api/v1/pilot/acquire_jobs", body, kind, token=None).status == 413
    packed = gzip.compress(body)
    answer = opened.raw("POST", "/server/panda/getJob", packed, kind, token=None)
    assert answer.status == 413
    opened.submit(JobSpec(name="j", command="true", queue="q"))
    answer = opened.raw("POST", "/server/panda/getJob", packed, kind | {"accept": bodies.JSON})
    assert answer.json["StatusCode"] == 0


def test_a_big_body_is_read_beside_the_event_loop(dispatcher, monkeypatch):
    where = []
    whole = bodies.parameters

    def noted(*given, **more):
        where.append(threading.current_thread() is threading.main_thread())
        return whole(*given, **more)

    monkeypatch.setattr(bodies, "parameters", noted)
    for size in (10, bodies.SMALL + 1):
        dispatcher.legacy("getJob", {"siteName": "q", "node": "x" * size})
        dispatcher.v1("pilot/acquire_jobs", {"site_name": "q", "node": "x" * size})
    assert where == [True, True, False, False]


def test_json_among_the_parameters_is_bounded_alike(dispatcher):
    text = "[" + ",".join(["1"] * (bodies.VALUES + 1)) + "]"
    answer = dispatcher.ask("/server/panda/updateJobsInBulk", {"jobList": text}, "form")
    assert answer.status == 413
