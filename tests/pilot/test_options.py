"""The command line, and what the environment says where it is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ailurus.protocol.errors import AilurusError
from pilot.options import parse

LEAST = ["--url", "http://d", "-q", "q"]


def test_queue_and_address_are_enough(tmp_path):
    options = parse(LEAST, {"HOME": str(tmp_path)})
    assert (options.url, options.queue) == ("http://d", "q")
    assert options.storage == tmp_path / "ailurus-data"
    assert options.workdir == Path("/tmp")
    assert (options.site, options.spool, options.token_file, options.lifetime_s) == (None,) * 4
    assert (options.grace_s, options.patience_s, options.log_level) == (20.0, 60.0, "info")


def test_the_environment_fills_in_what_is_not_given(tmp_path):
    env = {
        "AILURUS_URL": "http://e",
        "AILURUS_TOKEN_FILE": "/t",
        "AILURUS_BOOTSTRAP_FILE": "/b",
        "TMPDIR": str(tmp_path),
        "SLURM_TMPDIR": "/no/such/directory",
    }
    options = parse(["-q", "q"], env)
    assert options.url == "http://e"
    assert (options.token_file, options.bootstrap_file) == (Path("/t"), Path("/b"))
    assert options.workdir == tmp_path
    assert options.storage is None  # there is no HOME
    given = parse([*LEAST, "--token-file", "/u"], env)
    assert (given.url, given.token_file, given.bootstrap_file) == ("http://d", Path("/u"), None)


def test_directories_are_absolute_and_times_are_seconds():
    options = parse(
        [
            *LEAST,
            "-a",
            "work",
            "--spool",
            "spool",
            "-l",
            "2h",
            "--idle-exit",
            "90",
            "--grace",
            "1m",
        ],
        {},
    )
    assert options.workdir == Path.cwd() / "work"
    assert options.spool == Path.cwd() / "spool"
    assert (options.lifetime_s, options.idle_exit_s, options.grace_s) == (7200.0, 90.0, 60.0)


def test_a_site_file_names_its_own_storage():
    assert parse([*LEAST, "--site", "s.yaml"], {"HOME": "/h"}).storage is None
    assert parse([*LEAST, "--storage", "/d"], {"HOME": "/h"}).storage == Path("/d")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["-q", "q"], "--url is missing"),
        (["--url", "http://d"], "-q/--queue"),
        ([*LEAST, "--recover"], "--recover needs --spool"),
        ([*LEAST, "--storage", "/d", "--site", "s"], "--storage is for a pilot without --site"),
        ([*LEAST, "-l", "soon"], "soon"),
        ([*LEAST, "--dialect", "latin"], "latin"),
        ([*LEAST, "--heart", "1m"], "--heart"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(argv, text, capsys):
    with pytest.raises(SystemExit) as end:
        parse(argv, {})
    assert end.value.code == 2
    assert text in capsys.readouterr().err


def test_a_pin_that_is_none_is_refused():
    with pytest.raises(AilurusError, match="no SHA-256"):
        parse([*LEAST, "--pin", "xyz"], {})


@pytest.mark.parametrize(("env", "more"), [({}, ""), ({"AILURUS_BUNDLE": "b7"}, " (b7)")])
def test_it_says_its_version_and_which_file_it_is(env, more, capsys):
    with pytest.raises(SystemExit):
        parse(["--version"], env)
    text = capsys.readouterr().out.strip()
    assert text.startswith("pilot ")
    assert text.endswith(more)
