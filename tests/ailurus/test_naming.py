"""A finished file gets its name once, whatever its file system lacks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ailurus import naming

pytestmark = pytest.mark.field("L3")
WAYS = ("link", "renameat2", "claim")
LACKING = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)


def lack(monkeypatch, *names: str, number: int = errno.EPERM) -> None:
    """A file system that answers so to some calls."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        monkeypatch.setattr(naming, name, refuse)


@pytest.fixture(params=WAYS)
def way(request, monkeypatch) -> str:
    lack(monkeypatch, *("_link", "_rename")[: WAYS.index(request.param)])
    return request.param


def test_a_draft_gets_its_name_in_one_of_three_ways(tmp_path: Path, way: str) -> None:
    (tmp_path / "draft").write_text("whole")
    assert naming.name_once(str(tmp_path / "draft"), str(tmp_path / "name")) == way
    assert (tmp_path / "name").read_text() == "whole"


def test_names_are_those_of_an_open_directory(tmp_path: Path, way: str) -> None:
    (tmp_path / "draft").write_text("whole")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert naming.name_once(b"draft", "näme".encode(), directory=directory) == way
    finally:
        os.close(directory)
    assert (tmp_path / "näme").read_text() == "whole"


def test_who_has_the_name_keeps_it(tmp_path: Path, way: str) -> None:
    (tmp_path / "draft").write_text("second")
    (tmp_path / "name").write_text("first")
    with pytest.raises(FileExistsError):
        naming.name_once(str(tmp_path / "draft"), str(tmp_path / "name"))
    assert (tmp_path / "name").read_text() == "first"
    assert (tmp_path / "draft").read_text() == "second"


@pytest.mark.parametrize("number", LACKING)
def test_each_way_of_saying_no_leads_on(tmp_path: Path, monkeypatch, number: int) -> None:
    lack(monkeypatch, "_link", "_rename", number=number)
    (tmp_path / "draft").touch()
    assert naming.name_once(str(tmp_path / "draft"), str(tmp_path / "name")) == "claim"


def test_what_is_no_lack_is_told_at_once(tmp_path: Path, monkeypatch) -> None:
    lack(monkeypatch, "_link", number=errno.ENOSPC)
    (tmp_path / "draft").touch()
    with pytest.raises(OSError, match="No space"):
        naming.name_once(str(tmp_path / "draft"), str(tmp_path / "name"))
    assert not (tmp_path / "name").exists()


def test_a_claim_that_comes_to_nothing_is_given_up(tmp_path: Path, monkeypatch) -> None:
    lack(monkeypatch, "_link", "_rename")
    with pytest.raises(FileNotFoundError):
        naming.name_once(str(tmp_path / "no draft"), str(tmp_path / "name"))
    assert not (tmp_path / "name").exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_fsync_is_one(monkeypatch, number: int) -> None:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(naming.os, "fsync", fsync)
    naming.synced(0)


def test_a_disk_that_fails_is_told(monkeypatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(naming.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        naming.synced(0)
