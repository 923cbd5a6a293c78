from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pilot.agents import scratch_dir

HERE = socket.gethostname()


def left_in(workdir: Path) -> set[str]:
    return {path.name for path in workdir.iterdir()}


def test_what_dead_agents_left_goes_and_a_living_one_s_stays(tmp_path):
    dead, lock = scratch_dir.make(tmp_path)
    (dead / "7.1" / "tmp").mkdir(parents=True)
    os.close(lock)
    living, lock = scratch_dir.make(tmp_path)
    scratch_dir.sweep(tmp_path)
    assert left_in(tmp_path) == {living.name}
    os.close(lock)
    scratch_dir.sweep(tmp_path)
    assert left_in(tmp_path) == set()


def test_links_files_and_others_directories_stay(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    (tmp_path / f"ailurus-agent-{HERE}-{'1' * 16}").symlink_to(elsewhere)
    (tmp_path / f"ailurus-agent-{HERE}-{'2' * 16}").touch()
    before = left_in(tmp_path)
    scratch_dir.sweep(tmp_path)
    assert left_in(tmp_path) == before
    assert left_in(elsewhere) == {"data"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_another_user_s_directory_stays(tmp_path):
    theirs, lock = scratch_dir.make(tmp_path)
    os.close(lock)
    os.chown(theirs, 12345, 12345)
    scratch_dir.sweep(tmp_path)
    assert left_in(tmp_path) == {theirs.name}


def test_a_directory_that_was_taken_for_a_dead_one_s_is_made_anew(tmp_path, monkeypatch):
    first, second = b"1" * 8, b"2" * 8
    made = iter([first, second])
    monkeypatch.setattr(scratch_dir.os, "urandom", lambda _: next(made))
    locked = scratch_dir._locked

    def swept_before(path: Path) -> int | None:
        if path.name.endswith(first.hex()) and path.exists():
            path.rmdir()
        return locked(path)

    monkeypatch.setattr(scratch_dir, "_locked", swept_before)
    path, lock = scratch_dir.make(tmp_path)
    os.close(lock)
    assert left_in(tmp_path) == {path.name} == {f"ailurus-agent-{HERE}-{second.hex()}"}


@pytest.mark.parametrize("other", ["n2", "n1-b", "n[1]"])
def test_agents_of_other_nodes_keep_theirs_in_scratch_space_that_all_share(
    tmp_path, monkeypatch, other
):
    """Their locks are not seen here."""
    monkeypatch.setattr("socket.gethostname", lambda: other)
    theirs, lock = scratch_dir.make(tmp_path)
    os.close(lock)
    monkeypatch.setattr("socket.gethostname", lambda: "n1")
    scratch_dir.sweep(tmp_path)
    assert left_in(tmp_path) == {theirs.name}
    monkeypatch.setattr("socket.gethostname", lambda: other)
    scratch_dir.sweep(tmp_path)
    assert left_in(tmp_path) == set()


def test_where_no_directory_can_be_locked_none_is_left_and_nobody_tries_for_ever(
    tmp_path, monkeypatch
):
    """No descriptor left for one, say."""
    monkeypatch.setattr(scratch_dir, "_locked", lambda _: None)
    with pytest.raises(OSError, match="can be locked"):
        scratch_dir.make(tmp_path)
    assert left_in(tmp_path) == set()
