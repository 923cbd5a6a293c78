"""What payloads see of a node's /etc: copies, and what is mounted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugins.container import shown


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "etc"
    made.mkdir()
    monkeypatch.setattr(shown, "_HERE", str(made))
    monkeypatch.setattr(shown, "SYS", ())
    return made


def written(path: Path, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name, "utf-8")
    path.chmod(mode)


def test_a_small_directory_is_copied_with_its_links(etc: Path, tmp_path: Path) -> None:
    written(etc / "terminfo/x/xterm")
    (etc / "terminfo/link").symlink_to("x/xterm")
    (etc / "terminfo/out").symlink_to("/usr/share/terminfo")
    own = tmp_path / "own"
    assert [*shown.etc(own, "u")] == [(str(own), str(etc))]
    assert (own / "terminfo/link").read_text() == "xterm"
    assert (own / "terminfo/out").readlink() == Path("/usr/share/terminfo")


def test_a_directory_is_mounted_that_is_large_changes_or_is_not_for_all(
    etc: Path, tmp_path: Path
) -> None:
    for number in range(40):
        written(etc / f"fonts/{number}")
    written(etc / "profile.d/site.sh")
    written(etc / "perl/secret", 0o600)
    written(etc / "xdg/program", 0o755)
    (etc / "xml").mkdir()
    (etc / "xml/large").write_bytes(bytes(1 << 20))
    (etc / "sgml").mkdir(mode=0o711)
    (etc / "sgml/gone").symlink_to("nowhere")
    written(etc / "R/one")
    mounted = {place for _, place in shown.etc(tmp_path / "own", "u", [f"{etc}/R"])}
    names = ("fonts", "profile.d", "perl", "xdg", "xml", "R")
    assert mounted == {str(etc), *(f"{etc}/{name}" for name in names)}


def test_nothing_is_written_through_a_link_of_a_copy(etc: Path, tmp_path: Path) -> None:
    """A site shows a file of a directory that payloads see anyhow."""
    real = tmp_path / "real"
    written(real)
    (etc / "xdg").mkdir()
    (etc / "xdg/it").symlink_to(real)
    before = real.stat().st_mtime_ns
    places = [place for _, place in shown.etc(tmp_path / "own", "u", [f"{etc}/xdg/it"])]
    assert f"{etc}/xdg" in places
    assert real.stat().st_mtime_ns == before


def test_a_directory_that_changes_while_it_is_copied_is_mounted(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(etc / "terminfo/gone")
    few = shown._few

    def listed(*args: Any) -> bool:
        (etc / "terminfo/gone").unlink() if (found := few(*args)) else None
        return found

    monkeypatch.setattr(shown, "_few", listed)
    assert f"{etc}/terminfo" in [place for _, place in shown.etc(tmp_path / "own", "u")]
