"""`init` and `serve`: what is made, what is refused (T9), how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import stat
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client
from ailurus.wire.credentials import fixed_token
from dispatcher.cli import main
from dispatcher.cli.exits import CANNOT_CREATE, CONFIGURATION, UNAVAILABLE, USAGE


def connection(server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)


def test_init_makes_what_is_secret_for_this_user_only_and_never_twice(tmp_path, capsys):
    store = f"sqlite:///{tmp_path}/sub/queue.db"
    assert main(["init", "--store", store]) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "sub").iterdir()}
    for name in ("queue.db", "queue.keys.json", "queue.admin-token"):
        assert stat.S_IMODE((tmp_path / "sub" / name).stat().st_mode) == 0o600
    assert str(tmp_path / "sub" / "queue.admin-token") in capsys.readouterr().out
    assert main(["init", "--store", store]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "sub").iterdir()} == files


def test_a_lost_admin_token_is_made_anew_by_init(tmp_path, capsys):
    store = f"sqlite:///{tmp_path}/queue.db"
    main(["init", "--store", store])
    (tmp_path / "queue.admin-token").unlink()
    main(["init", "--store", store])
    assert (tmp_path / "queue.admin-token").read_text().count(".") == 2


def test_no_keys_no_service(tmp_path, capsys):
    place = ["--listen", "127.0.0.1:0"]
    assert main(["serve", "--store", f"sqlite:///{tmp_path}/queue.db", *place]) == CONFIGURATION
    assert "dispatcher init" in capsys.readouterr().err


def test_keys_that_others_can_read_are_not_used(tmp_path, capsys):
    store = f"sqlite:///{tmp_path}/queue.db"
    main(["init", "--store", store])
    (tmp_path / "queue.keys.json").chmod(0o644)
    assert main(["serve", "--store", store, "--listen", "127.0.0.1:0"]) == CONFIGURATION
    assert "others may read" in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"])
def test_t9_listening_beyond_loopback_without_tls_is_refused(tmp_path, capsys, listen):
    store = f"sqlite:///{tmp_path}/queue.db"
    main(["init", "--store", store])
    assert main(["serve", "--store", store, "--listen", listen]) == USAGE
    said = capsys.readouterr().err
    assert "--tls-cert" in said
    assert "--serve-everybody-without-tls" in said


@pytest.mark.parametrize("listen", ["127.0.0.1", "8080", "127.0.0.1:http", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_refused(tmp_path, capsys, listen):
    assert main(["serve", "--store", "sqlite:///x", "--listen", listen]) == USAGE


def test_a_certificate_that_cannot_be_used_is_told(tmp_path, capsys):
    store = f"sqlite:///{tmp_path}/queue.db"
    main(["init", "--store", store])
    files = ["--tls-cert", str(tmp_path / "none.pem"), "--tls-key", str(tmp_path / "none.pem")]
    assert main(["serve", "--store", store, "--listen", "127.0.0.1:0", *files]) == CONFIGURATION
    assert "none.pem" in capsys.readouterr().err


def test_a_port_in_use_is_told(server, tmp_path, capsys):
    store = f"sqlite:///{tmp_path}/queue.db"
    main(["init", "--store", store])
    assert main(["serve", "--store", store, "--listen", urlsplit(server.url).netloc]) == UNAVAILABLE
    assert "choose another port" in capsys.readouterr().err


def test_it_says_where_it_listens_and_how_to_sign_in(server):
    assert server.said[0].startswith("listening on http://127.0.0.1:")
    assert "/console/" in server.said[1]
    assert str(server.token_file) in server.said[1]
    assert server.token_file.read_text().strip() not in "".join(server.said)


def test_without_a_token_there_is_no_service_on_loopback_either(server):
    asked = connection(server)
    asked.request("GET", "/api/ailurus/v1/overview")
    with asked.getresponse() as answer:
        assert answer.status == 401
    asked.close()


def test_the_console_is_there(server):
    asked = connection(server)
    asked.request("GET", "/console/")
    with asked.getresponse() as answer:
        assert answer.status == 200
        assert answer.getheader("content-security-policy")
    asked.close()


def test_a_second_dispatcher_on_the_same_store_is_refused(serve, tmp_path, capsys):
    running = serve()
    assert main(["serve", "--store", running.store, "--listen", "127.0.0.1:0"]) != 0
    assert "another dispatcher serves" in capsys.readouterr().err


def test_sigterm_ends_it_at_once_although_pilots_wait_and_pages_look(serve):
    running = serve("--heartbeat", "1s")
    client = running.client
    token = client.call(
        "token", m.NewToken(subject="p", scopes=("ailurus.pilot",)), answer=m.Token
    ).token
    ask = m.Register(instance="i", queue="q", total=Room(cores=1))
    worker = Client(running.url, fixed_token(token)).call("register", ask, answer=m.Registered)
    waiting = connection(running)
    body = '{"request_id":"r","room":{"cores":1},"wait_s":50}'
    kind = {"Content-Type": "application/json", "Authorization": f"Bearer {worker.token}"}
    waiting.request("POST", "/api/ailurus/v1/worker/acquire", body, kind)
    page = connection(running)
    admin = running.token_file.read_text().strip()
    page.request(
        "GET",
        "/api/ailurus/v1/stream?topics=overview",
        headers={"Authorization": f"Bearer {admin}"},
    )
    streamed = page.getresponse()
    assert streamed.getheader("content-type") == "text/event-stream"
    assert streamed.readline()
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 10
    answer = waiting.getresponse()
    assert (answer.status, json.loads(answer.read())["jobs"]) == (200, [])
    for one in (answer, streamed, waiting, page):
        one.close()


def test_what_was_submitted_is_there_after_a_restart_and_old_tokens_hold(serve):
    first = serve()
    done = first.client.submit([_job("kept")], "r")
    first.kill()
    second = serve()
    assert second.client.show(done.job_ids[0]).row.name == "kept"
    assert second.client.submit([_job("kept")], "r").job_ids == done.job_ids


def _job(name: str):
    from ailurus.protocol.job import JobSpec

    return JobSpec(name=name, command="true")


def raw(server, *pieces: bytes, wait_s: float = 3.0) -> bytes:
    address = urlsplit(server.url)
    got = b""
    with socket.create_connection((address.hostname, address.port), timeout=wait_s) as line:
        try:
            for piece in pieces:
                line.sendall(piece)
            while part := line.recv(65536):
                got += part
        except TimeoutError:
            pass
        except ConnectionError:
            return got or b"reset"
    return got


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000,),
        (b"GET /" + b"a" * 200_000,),
        (b"GET /healthz HTTP/1.1\r\n" + HOST, *[b"X%d: y\r\n" % nr * 10 for nr in range(9000)]),
    ],
)
def test_h2_an_endless_head_is_cut_off(server, pieces):
    assert raw(server, *pieces)[:12] in (b"HTTP/1.1 431", b"reset")


@pytest.mark.parametrize(
    "request_text",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xff HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        b"GET //x:y@z/%00%ff HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    ],
)  # fmt: skip
def test_h2_a_malformed_request_is_a_4xx_or_the_end(server, request_text):
    answer = raw(server, request_text)
    assert answer[:10] in (b"HTTP/1.1 4", b"reset", b"")


def test_h2_others_are_served_beside_a_thousand_idle_connections(server):
    address = urlsplit(server.url)
    idle = [socket.create_connection((address.hostname, address.port)) for _ in range(500)]
    try:
        for line in idle[::2]:
            line.sendall(b"POST /api/ailurus/v1/worker/report HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        began = time.monotonic()
        assert server.client.overview().version
        assert time.monotonic() - began < 10
    finally:
        for line in idle:
            line.close()


@pytest.mark.slow
def test_heartbeats_go_on_while_ten_thousand_jobs_are_submitted(serve):
    running = serve()
    client = running.client
    client.overview()
    jobs = [_job(f"j{nr}") for nr in range(10_000)]
    task = threading.Thread(target=lambda: client.submit(jobs, "many"))
    beside = running.client
    task.start()
    slowest = 0.0
    while task.is_alive():
        began = time.monotonic()
        beside.overview()
        slowest = max(slowest, time.monotonic() - began)
    task.join()
    assert slowest < 5.0


def test_h5_no_secret_is_in_the_process_list(server):
    line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert server.token_file.read_text().strip().encode() not in line
    for fd in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed while we looked
            assert ".keys.json" not in str(fd.readlink())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        # a lease of 0 s has run out when it begins: each job was begun anew every second
        (["serve", "--heartbeat", "0s"], USAGE, "--heartbeat: '0s' is no time at all"),
        (["serve", "--heartbeat", "nan"], USAGE, "--heartbeat: 'nan' is not a duration"),
        (["serve", "--edge-lease", "0"], USAGE, "--edge-lease: '0' is no time at all"),
        (["serve", "--retention", "0d"], USAGE, "--retention: '0d' is no time at all"),
        (["serve", "--rate", "nan"], USAGE, "--rate: 'nan' is no number of requests"),
        (["serve", "--rate", "-3"], USAGE, "--rate: '-3' is no number of requests"),
        (["serve", "--log", "no/such/log"], CANNOT_CREATE, "--log: cannot write no/such/log"),
        (["wait", "1", "--timeout", "soon"], USAGE, "--timeout: 'soon' is not a duration"),
        (["show", "-1"], USAGE, ""),
        (["show", "9" * 30], USAGE, "is no number of a job"),
        (["cancel", "\u0663"], USAGE, "is no number of a job"),
        (["jobs", "--name", "\udcff", "--url", "http://127.0.0.1:1"], USAGE, "is not UTF-8 text"),
    ],
)
def test_words_that_mean_nothing_are_wrong_usage(tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEARER_TOKEN", "a.b.c")
    if words[0] == "serve":
        assert main(["init", "--store", "sqlite:///q.db"]) == 0
        words = [*words, "--store", "sqlite:///q.db", "--listen", "127.0.0.1:0"]
    try:
        got = main(words)
    except SystemExit as left:
        got = left.code
    assert (got, said in capsys.readouterr().err) == (code, True)
