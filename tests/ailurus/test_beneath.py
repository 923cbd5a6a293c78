"""Nothing outside of a directory is reached through it, and no file in it is seen half."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ailurus import beneath
from ailurus.regular import NotRegular

LEADS_OUT = r"Not a directory|Too many levels"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory, with a link out of it at each level."""
    made = tmp_path / "root"
    (made / "a").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    for link in ("out", "a/out"):
        (made / link).symlink_to(tmp_path / "outside")
    (made / "a/file").symlink_to(tmp_path / "outside/file")
    return made


def written(root: Path, names: list[str], text: bytes) -> None:
    with beneath.replacing(root, names) as fd:
        os.write(fd, text)


def test_a_file_is_written_with_its_directories_and_read_again(root):
    written(root, ["b", "c", "file"], b"one")
    written(root, ["b", "c", "file"], b"other")
    assert beneath.read(root, ["b", "c", "file"]) == b"other"
    assert beneath.size_of(root, ["b", "c", "file"]) == 5
    assert os.listdir(root / "b/c") == ["file"]  # noqa: PTH208 - names
    beneath.remove(root, ["b", "c", "file"])
    beneath.remove(root, ["b", "c", "file"])
    assert beneath.size_of(root, ["b", "c", "file"]) is None


@pytest.mark.parametrize("names", [["out", "file"], ["a", "out", "file"]])
def test_no_link_on_the_way_is_followed(root, names):
    with pytest.raises(OSError, match=LEADS_OUT):
        beneath.read(root, names)
    with pytest.raises(OSError, match=LEADS_OUT):
        written(root, names, b"over it")
    with pytest.raises(OSError, match=LEADS_OUT):
        beneath.remove(root, names)
    assert beneath.size_of(root, names) is None
    assert (root.parent / "outside/file").read_text() == "secret"


def test_a_link_is_no_file_and_is_replaced_by_one(root):
    assert beneath.size_of(root, ["a", "file"]) is None
    with pytest.raises(OSError, match=LEADS_OUT):
        beneath.read(root, ["a", "file"])
    with pytest.raises(NotRegular):
        beneath.read(root, ["a"])
    written(root, ["a", "file"], b"ours")
    assert beneath.read(root, ["a", "file"]) == b"ours"
    assert (root.parent / "outside/file").read_text() == "secret"


def test_the_root_itself_may_be_a_link(root):
    link = root.parent / "link"
    link.symlink_to(root)
    written(link, ["file"], b"x")
    assert (root / "file").read_bytes() == b"x"


def broken_off(root: Path, name: str) -> None:
    with beneath.replacing(root, [name]) as fd:
        os.write(fd, b"half")
        assert (root / name).read_bytes() == b"whole"
        raise KeyboardInterrupt


def test_what_breaks_off_leaves_the_file_that_was_there(root):
    name = "f" * 255
    written(root, [name], b"whole")
    with pytest.raises(KeyboardInterrupt):
        broken_off(root, name)
    assert (root / name).read_bytes() == b"whole"
    assert sorted(path.name for path in root.iterdir()) == ["a", name, "out"]


def test_no_descriptor_is_left_open(root):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names

    before = count()
    written(root, ["b", "file"], b"x")
    beneath.read(root, ["b", "file"])
    for names in (["out", "file"], ["none", "file"], ["a", "file"]):
        assert beneath.size_of(root, names) is None
    with pytest.raises(OSError, match=LEADS_OUT):
        written(root, ["out", "x", "file"], b"x")
    assert count() == before
