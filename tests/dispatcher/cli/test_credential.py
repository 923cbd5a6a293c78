"""`dispatcher credential`, at a running dispatcher."""

from __future__ import annotations

import json
import time

from dispatcher.cli import main
from tests.dispatcher.helpers import token


def verb(server, *words):
    return main([*words, "--url", server.url, "--token-file", str(server.token_file)])


def test_a_credential_is_kept_listed_and_forgotten(serve, tmp_path, capsys):
    server = serve()
    secret = token(time.time() + 3600, sub="alice@cern")
    (tmp_path / "bt").write_text(secret)
    assert verb(server, "credential", "keep", "mine", "--file", str(tmp_path / "bt")) == 0
    assert verb(server, "credential", "--json") == 0
    shown = capsys.readouterr().out
    assert secret not in shown
    (row,) = json.loads(shown.splitlines()[-1])["credentials"]
    assert (row["name"], row["subject"]) == ("mine", "alice@cern")
    assert verb(server, "credential", "forget", "mine", "theirs") == 65
    told = capsys.readouterr().err
    assert "no credential 'theirs'" in told
    assert "yours are: mine" in told
    assert verb(server, "credential", "forget", "mine") == 0
    assert verb(server, "credential") == 0
    assert "mine" not in capsys.readouterr().out.replace("forgotten: mine", "")


def test_what_is_missing_is_told(serve, tmp_path, capsys):
    server = serve()
    assert verb(server, "credential", "keep", "mine") == 64
    assert verb(server, "credential", "forget") == 64
    assert verb(server, "credential", "keep", "mine", "--file", str(tmp_path / "none")) == 66
    (tmp_path / "odd").write_text("hunter2")
    assert verb(server, "credential", "keep", "mine", "--file", str(tmp_path / "odd")) == 65
    told = capsys.readouterr().err
    assert "give a JWT" in told
    assert "hunter2" not in told
