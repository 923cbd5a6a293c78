"""A log that somebody moves away is begun anew in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ailurus import logfile, logs


@pytest.fixture
def log(tmp_path: Path):
    logs.configure(tmp_path / "log")
    yield logs.Log("test")
    logs.configure()


@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_log_follows_its_name(log, tmp_path: Path, monkeypatch, how):
    monkeypatch.setattr(logfile, "LOOK_S", 0.0)
    log.info("before")
    if how == "renamed":
        (tmp_path / "log").rename(tmp_path / "log.1")
    else:
        (tmp_path / "log").unlink()
    log.info("after")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["event"] == "after"
