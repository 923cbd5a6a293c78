"""A token is found where the WLCG says, and who has none is told where it was looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ailurus import token_discovery
from ailurus.protocol.errors import AilurusError
from ailurus.token_discovery import DISCOVERED, FoundToken, discovered, of_site, places, variables

NOBODY = 4_000_000


def test_what_is_named_comes_before_what_is_usual(tmp_path):
    usual = tmp_path / f"bt_u{os.getuid()}"
    usual.write_text("t")
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "BEARER_TOKEN_FILE": "/f", "BEARER_TOKEN": "a"}
    assert discovered(environment) == FoundToken(text="a")
    # A blank one is none.
    assert discovered({**environment, "BEARER_TOKEN": " \n"}) == FoundToken(path="/f")
    assert discovered({"XDG_RUNTIME_DIR": str(tmp_path)}) == FoundToken(path=str(usual))
    last = f"/tmp/bt_u{os.getuid()}"
    assert places(environment) == ["/f", str(usual), last]
    assert places({}) == [last]


@pytest.mark.parametrize("kind", ["link", "directory", "another user's", "none"])
def test_a_file_in_a_usual_place_is_the_users_own_and_no_link(tmp_path, monkeypatch, kind):
    name = tmp_path / f"bt_u{NOBODY}"
    (tmp_path / "secret").write_text("t")
    if kind == "link":
        name.symlink_to(tmp_path / "secret")
    elif kind == "directory":
        name.mkdir()
    elif kind != "none":
        name.write_text("t")
    ours = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    if kind in {"link", "directory"}:
        found = os.lstat(name)
        monkeypatch.setattr(os, "lstat", lambda _: os.stat_result((*found[:4], NOBODY, *found[5:])))
    assert ours != NOBODY
    with pytest.raises(AilurusError) as raised:
        discovered({"XDG_RUNTIME_DIR": str(tmp_path)})
    wrong = {"another user's": "is another user's", "none": "is not there"}.get(kind, "is no file")
    assert f"{name} {wrong}" in raised.value.message
    assert "BEARER_TOKEN and BEARER_TOKEN_FILE are not set" in raised.value.message
    assert f"/tmp/bt_u{NOBODY} is" in raised.value.message
    assert "htgettoken" in raised.value.remedy


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"BEARER_TOKEN_FILE": "/no/such"}, "/no/such, which cannot be read"),
        ({"BEARER_TOKEN": "two\nlines"}, "there is no token in BEARER_TOKEN"),
        ({"BEARER_TOKEN": "\udcff"}, "there is no token in BEARER_TOKEN"),
    ],
)
def test_a_token_that_is_named_and_is_none_is_told(monkeypatch, environment, said):
    monkeypatch.setattr(token_discovery, "STARTED_WITH", environment)
    with pytest.raises(AilurusError, match=said) as raised:
        of_site(DISCOVERED)
    assert raised.value.remedy
    assert of_site("/a/path") == FoundToken(path="/a/path")


def test_a_process_in_another_directory_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {"BEARER_TOKEN_FILE": "bt", "XDG_RUNTIME_DIR": "", "PATH": "/bin", "SECRET": "x"}
    assert variables(environment) == {"BEARER_TOKEN_FILE": str(Path.cwd() / "bt")}
