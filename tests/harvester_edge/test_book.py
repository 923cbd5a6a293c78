"""The book: whose it is, and what a damaged one says."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from itertools import product
from pathlib import Path

import msgspec
import pytest

from harvester_edge import book as books
from harvester_edge.book import Book
from harvester_edge.cli import main


def named(path: Path) -> str:
    with closing(Book(path, site="demo")) as book:
        return book.instance()


def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, number: str) -> None:
    (file := tmp_path / f"machine-id-{name}").write_text(number)
    monkeypatch.setattr(books, "MACHINE_ID", file)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", name, "6", "1", "x86_64")))


def test_a_copied_book_is_another_edge(tmp_path):
    first = named(tmp_path / "book.sqlite")
    assert named(tmp_path / "book.sqlite") == first
    shutil.copy(tmp_path / "book.sqlite", tmp_path / "copy.sqlite")
    assert named(tmp_path / "copy.sqlite") != first
    assert named(tmp_path / "copy.sqlite") == named(tmp_path / "copy.sqlite")
    assert named(tmp_path / "book.sqlite") == first


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (("login1", "aaa"), True),
        (("login2", "aaa"), True),  # renamed
        (("login1", ""), True),  # a container that begins again
        (("login2", "bbb"), False),  # a copy of the whole disk
    ],
)
def test_a_book_knows_its_machine(tmp_path, monkeypatch, now, same):
    machine(monkeypatch, tmp_path, "login1", "aaa")
    first = named(tmp_path / "book.sqlite")
    machine(monkeypatch, tmp_path, *now)
    assert (named(tmp_path / "book.sqlite") == first) is same


def test_a_book_from_before_keeps_its_edge(tmp_path):
    with closing(Book(tmp_path / "book.sqlite", site="demo")) as book:
        book.set_meta("instance", "before")
    assert named(tmp_path / "book.sqlite") == "before"


def spoil_middle(book: Path) -> None:
    whole = book.read_bytes()
    book.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


def spoil_all(book: Path) -> None:
    book.write_bytes(b"no" * 9999)


@pytest.mark.parametrize(
    ("verb", "spoil"),
    [
        *product(("status", "why", "workers", "tick"), (spoil_middle, spoil_all)),
        *product(("status", "why", "workers"), (lambda book: book.write_bytes(b""),)),
    ],
)
def test_a_spoilt_book_says_how_to_begin_anew(world, tree, tmp_path, capsys, spoil, verb):
    (file := tmp_path / "site.yaml").write_bytes(msgspec.json.encode(tree))
    world.cycle()
    world.edge.book.close()
    spoil(world.edge.state / "book.sqlite")
    assert main([verb, "--config", str(file)]) == 78
    assert "move the files book.sqlite* away" in capsys.readouterr().err
