"""Whether one path lies beneath another, whatever name leads there."""

from __future__ import annotations

import pytest

from ailurus.apart import look


def beneath(path, root):
    return look(path).beneath(look(root))


def overlap(one, other):
    return look(one).overlaps(look(other))


@pytest.mark.parametrize(
    ("path", "root", "is_beneath"),
    [
        ("/a/b", "/a", True),
        ("/a", "/a", True),
        ("/ab", "/a", False),
        ("/a/../b/c", "/b", True),
        ("/a/x/..", "/a/x", False),
        ("/a", "/", True),
        ("/a", "/a/b", False),
    ],
)
def test_by_name(path, root, is_beneath):
    assert beneath(path, root) is is_beneath


@pytest.mark.field("A10")
def test_links_hide_nothing_on_either_side(tmp_path):
    real = tmp_path / "real"
    (real / "spool").mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "in").symlink_to(real / "spool")
    assert beneath(str(tmp_path / "link" / "spool"), str(real))
    assert beneath(str(real / "spool"), str(tmp_path / "link"))
    assert beneath(str(tmp_path / "in" / "not-yet-there"), str(real))
    assert overlap(str(real), str(tmp_path / "in"))
    assert not overlap(str(tmp_path / "link" / "other"), str(tmp_path / "in"))


@pytest.mark.field("A10")
def test_a_directory_is_known_under_another_name(tmp_path, monkeypatch):
    """As a bind mount shows it, or a file system that makes no difference between `Data` and
    `data`."""
    import os

    (tmp_path / "one" / "work").mkdir(parents=True)
    real = os.stat

    def stat(path, **words):
        return real(str(path).replace("/other", "/one"), **words)

    monkeypatch.setattr(os, "stat", stat)
    assert beneath(str(tmp_path / "one" / "work"), str(tmp_path / "other"))
    assert not beneath(str(tmp_path / "one"), str(tmp_path / "other" / "work"))
