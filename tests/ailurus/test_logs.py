"""What a line of the log holds, and whose lines it takes."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ailurus import logs
from ailurus.logs import Log, ThrottledLog


class Endpoint(msgspec.Struct):
    url: str


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_has_its_keys_in_order_and_the_fields_bound_once(tmp_path: Path) -> None:
    logs.configure(tmp_path / "log")
    Log("edge", site="desy").bind(worker_id=7).info("worker_ended", code=0)
    (line,) = lines_of(tmp_path / "log")
    assert list(line) == ["time", "level", "log", "event", "site", "worker_id", "code"]
    assert (line["level"], line["log"], line["event"]) == ("info", "edge", "worker_ended")
    assert (line["site"], line["worker_id"], line["code"]) == ("desy", 7, 0)
    assert line["time"].endswith("Z")


def test_a_field_called_level_is_not_the_level_of_the_line(tmp_path: Path) -> None:
    logs.configure(tmp_path / "log")
    Log("edge", level=3).warning("pilot_said", level=2)
    Log("edge", level=3).warning("pilot_said")
    assert [(one["level"], one["level_"]) for one in lines_of(tmp_path / "log")] == [
        ("warning", 2),
        ("warning", 3),
    ]


def test_a_trace_stands_at_the_end_of_its_line(tmp_path: Path) -> None:
    logs.configure(tmp_path / "log")
    try:
        raise LookupError("no row")
    except LookupError:
        Log("test").error("loop_failed", trace=True, loop="expiry")
    (line,) = lines_of(tmp_path / "log")
    assert list(line)[-2:] == ["loop", "trace"]
    assert line["trace"].endswith("LookupError: no row")


@pytest.mark.parametrize(
    ("level", "events"),
    [("debug", ["d", "i", "w"]), ("info", ["i", "w"]), ("error", [])],
)
def test_a_level_leaves_out_what_is_below_it(tmp_path: Path, level: str, events: list[str]) -> None:
    logs.configure(tmp_path / "log", level=level)
    log = Log("test")
    log.debug("d")
    log.info("i")
    log.warning("w")
    assert [line["event"] for line in lines_of(tmp_path / "log")] == events


def test_libraries_join_in_with_their_warnings_and_no_secrets(tmp_path: Path) -> None:
    logs.configure(tmp_path / "log")
    library = logging.getLogger("urllib3.connectionpool")
    library.info("connected")
    library.warning("retrying %s", "http://alice:hunter2@h/d?authz=S3CRET")
    (line,) = lines_of(tmp_path / "log")
    assert (line["level"], line["log"]) == ("warning", "urllib3.connectionpool")
    assert line["event"].startswith("retrying http://h/d?")
    assert "S3CRET" not in line["event"]


URL = "https://user:hunter2@h/x?X-Amz-Signature=S3CRET"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (URL, "https://h/x?…"),
        ([URL, 7], ["https://h/x?…", 7]),
        ((URL,), ["https://h/x?…"]),
        ({URL}, ["https://h/x?…"]),
        ({"a": {URL: [(URL, None)]}}, {"a": {"https://h/x?…": [["https://h/x?…", None]]}}),
        (OSError(f"no answer from {URL}"), "no answer from https://h/x?…"),
        ([ValueError(URL)], ["https://h/x?…"]),
        (Path("/tmp/x"), "/tmp/x"),
        (Endpoint(URL), "Endpoint(url='https://h/x?…')"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("for_terminal", [False, True])
def test_no_field_shows_the_secrets_of_a_url_however_deep(
    monkeypatch: pytest.MonkeyPatch, value: Any, written: Any, for_terminal: bool
) -> None:
    stderr = io.StringIO()
    stderr.isatty = lambda: for_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure()
    Log("test", bound=value).info("report_not_counted", left=value)
    line = stderr.getvalue()
    assert "S3CRET" not in line
    assert "hunter2" not in line
    if for_terminal:
        assert f"left={written!r}" in line
    else:
        assert json.loads(line)["left"] == json.loads(line)["bound"] == written


def test_a_trace_shows_no_secrets_either(tmp_path: Path) -> None:
    logs.configure(tmp_path / "log")
    try:
        raise LookupError(URL)
    except LookupError:
        Log("test").error("loop_failed", trace=True)
    assert "S3CRET" not in (tmp_path / "log").read_text("utf-8")


def test_a_terminal_gets_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    logs.configure()
    Log("test").warning("disk_full", path="/tmp", free_mb=0)
    written = sys.stderr.getvalue()
    assert written.endswith(" warning disk_full path='/tmp' free_mb=0\n")


def test_no_text_steers_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    stderr.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure()
    logging.getLogger("urllib3").warning("answers %s", "\x1b[2J")
    try:
        raise LookupError("\x1b[31mred")
    except LookupError:
        Log("test").error("loop_failed", trace=True, why="\x1b[0m")
    assert "red" in stderr.getvalue()
    assert "\x1b" not in stderr.getvalue()


class Textless:
    def __str__(self) -> str:
        raise RuntimeError("it has none")


def itself_inside() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Textless(), "a Textless that cannot be shown"),
        (itself_inside(), "a list that cannot be shown"),
        ({(1, 2): 3, None: 4, 5: 6}, {"(1, 2)": 3, "null": 4, "5": 6}),
    ],
    ids=["textless", "itself", "keys"],
)
def test_no_value_makes_the_caller_of_a_logger_fail(
    tmp_path: Path, value: Any, written: Any
) -> None:
    logs.configure(tmp_path / "log")
    Log("test").info("odd", value=value)
    (line,) = lines_of(tmp_path / "log")
    assert line["value"] == written


def test_a_later_configuration_replaces_the_one_before(tmp_path: Path) -> None:
    logs.configure(tmp_path / "first")
    logs.configure(tmp_path / "second")
    Log("test").info("moved")
    assert lines_of(tmp_path / "first") == []
    assert len(lines_of(tmp_path / "second")) == 1


def test_a_lasting_trouble_is_logged_when_it_begins_changes_and_comes_back(logged) -> None:
    trouble = ThrottledLog(Log("test"))
    for what in ("refused", "refused", "timed out", "timed out"):
        trouble.warning("dispatcher_silent", what)
    assert [line["what"] for line in logged] == ["refused", "timed out"]
    assert trouble.resolved("dispatcher_silent")
    assert not trouble.resolved("dispatcher_silent")
    trouble.warning("dispatcher_silent", "timed out")
    assert len(logged) == 3


def test_a_program_that_logs_loads_neither_rich_nor_structlog_before_its_first_line() -> None:
    words = """
import sys
from ailurus import logs
log = logs.Log("test")
logs.configure()
assert "structlog" not in sys.modules
log.info("begun")
assert "structlog" in sys.modules
assert "rich" not in sys.modules
import rich
"""
    ran = subprocess.run([sys.executable, "-c", words], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
