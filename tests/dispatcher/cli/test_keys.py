"""Keys, tokens and sessions of a running dispatcher, changed by verbs (T7)."""

from __future__ import annotations

import http.client
import json
import signal
from urllib.parse import urlsplit

from ailurus.wire.credentials import TokenFile
from dispatcher.cli import main
from tests.rig.waiting import until

OURS = {"X-Ailurus": "1", "Content-Type": "application/json"}


def verb(server, *words, token=None):
    return main([*words, "--url", server.url, "--token-file", str(token or server.token_file)])


def status(server, token) -> int:
    return asked(server, "GET", "/overview", headers={"Authorization": f"Bearer {token}"}).status


def asked(server, method, path, body="", headers=()):
    line = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    line.request(method, f"/api/ailurus/v1{path}", body, dict(headers))
    with line.getresponse() as answer:
        answer.read()
    line.close()
    return answer


def after_hup(server, what):
    server.process.send_signal(signal.SIGHUP)
    until(what)


def test_t7_a_running_dispatcher_takes_a_rotated_key_and_refuses_the_retired_one(
    serve, tmp_path, capsys
):
    running = serve()
    old = running.token_file.read_text().strip()
    store = ["--store", running.store]
    assert main(["keys", "rotate", *store, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed["verify"]) == 1
    fresh = tmp_path / "fresh"
    make = ["token", "--subject", "admin", "--scope", "admin", "--out", str(fresh)]

    def signs_anew() -> bool:
        assert verb(running, *make) == 0
        return _kid(fresh.read_text()) == listed["signs"]

    after_hup(running, signs_anew)
    assert status(running, old) == 200
    assert main(["keys", "retire", listed["verify"][0], *store]) == 0
    after_hup(running, lambda: status(running, old) == 401)
    assert status(running, fresh.read_text().strip()) == 200


def _kid(token: str) -> str:
    import jwt

    return jwt.get_unverified_header(token.strip())["kid"]


def test_a_token_is_revoked_by_its_file_or_its_holder(serve, tmp_path, capsys):
    running = serve()
    for name in ("a", "b"):
        out = str(tmp_path / name)
        assert verb(running, "token", "--subject", name, "--scope", "read", "--out", out) == 0
    first, second = ((tmp_path / name).read_text().strip() for name in ("a", "b"))
    assert verb(running, "token", "revoke", "--file", str(tmp_path / "a")) == 0
    assert (status(running, first), status(running, second)) == (401, 200)
    assert verb(running, "token", "revoke", "--subject", "b") == 0
    assert status(running, second) == 401
    assert verb(running, "token", "revoke") != 0
    assert verb(running, "token", "revoke", "--subject", "a", token=tmp_path / "a") != 0
    (tmp_path / "c").write_text("no token")
    assert verb(running, "token", "revoke", "--file", str(tmp_path / "c")) != 0
    assert "holds no token" in capsys.readouterr().err


def test_sessions_survive_a_restart_and_ended_ones_do_not_come_back(serve):
    first = serve()
    body = json.dumps({"token": TokenFile(first.token_file)()})
    cookies = []
    for _ in range(2):
        answer = asked(first, "POST", "/session", body, OURS)
        cookies.append(answer.getheader("set-cookie").partition(";")[0])
    kept, left = cookies
    assert asked(first, "POST", "/session/end", "{}", OURS | {"Cookie": left}).status == 200
    first.kill()
    second = serve()
    assert asked(second, "GET", "/overview", headers={"Cookie": kept}).status == 200
    assert asked(second, "GET", "/overview", headers={"Cookie": left}).status == 401
