"""Job directories: nothing outside is read or removed, whatever a payload put in them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from pilot.files import log_tarball
from pilot.files.live_log import Follower
from pilot.files.tail import tail
from pilot.run import stderr_tail
from pilot.workdir import Workdir, remove_tree
from tests.pilot.attempts import attempt_of


@pytest.fixture
def work(tmp_path: Path) -> Workdir:
    made = Workdir(tmp_path / "7.1")
    made.make()
    return made


def test_leaving_removes_all(tmp_path: Path) -> None:
    with Workdir(tmp_path / "8.1") as work:
        work.make()
        (work.directory / "a").mkdir()
        (work.directory / "a/b").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_p5_removal_follows_no_link(work: Workdir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (work.directory / "link").symlink_to(outside)
    (work.directory / "up").symlink_to("../..")
    remove_tree(work.path)
    assert (outside / "precious").read_text() == "x"
    assert not work.path.exists()


def test_closed_directories_are_removed_too(work: Workdir) -> None:
    for name in ("a", "a/b", "a/b/c"):
        (work.directory / name).mkdir()
    (work.directory / "a/b/c/file").write_text("x")
    for name in ("a/b/c", "a/b", "a"):
        (work.directory / name).chmod(0)
    script = (
        "import sys, pathlib; from pilot.workdir import remove_tree; "
        "remove_tree(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, work.path], check=True, timeout=20)
    assert not work.path.exists()


def test_f1_a_directory_5000_deep_is_removed(work: Workdir) -> None:
    here = os.open(work.directory, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert len(list(work.files())) > 100  # and looking at it neither fails nor hangs
    remove_tree(work.path)
    assert not work.path.exists()


@pytest.mark.parametrize(
    "name", ["../7.1/stdout", "/etc/passwd", "link", "dir/link", "fifo", "dir"]
)
def test_only_regular_files_beneath_are_opened(work: Workdir, name: str) -> None:
    (work.directory / "link").symlink_to("/etc/passwd")
    (work.directory / "dir").mkdir()
    (work.directory / "dir/link").symlink_to("/etc/passwd")
    os.mkfifo(work.directory / "fifo")
    with pytest.raises((OSError, ValueError)):
        work.open(name)


def test_a_directory_that_is_a_link_is_not_entered(work: Workdir) -> None:
    (work.directory / "etc").symlink_to("/etc")
    with pytest.raises(OSError, match=r"Not a directory|Too many"):
        work.open("etc/passwd")


SWAP = textwrap.dedent("""
    import os, sys
    os.chdir(sys.argv[1])
    while True:
        try:
            open("x", "w").close()
            os.symlink("/etc/passwd", "y")
            os.replace("y", "x")
            os.unlink("x")
        except OSError:
            pass
""")


def test_p5_an_output_swapped_for_a_link_is_never_followed(work: Workdir) -> None:
    attacker = subprocess.Popen([sys.executable, "-c", SWAP, work.directory])
    try:
        opened = 0
        for _ in range(20_000):
            try:
                fd = work.open("x")
            except (OSError, ValueError):
                continue
            opened += 1
            assert os.fstat(fd).st_size == 0
            os.close(fd)
        assert opened
    finally:
        attacker.kill()
        attacker.wait()


def test_p5_removal_races_with_a_payload_and_stays_inside(work: Workdir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    files = [outside / f"f{n}" for n in range(20)]
    for file in files:
        file.write_text("x")
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            target = work.directory / "d"
            try:
                target.mkdir()
                (target / "x").write_text("")
                target.rename(work.directory / "e")
                target.symlink_to(outside)
                target.unlink()
            except OSError:
                pass

    thread = threading.Thread(target=attack)
    thread.start()
    for _ in range(200):
        remove_tree(work.directory)
        work.directory.mkdir(exist_ok=True)
    stop.set()
    thread.join()
    assert all(file.exists() for file in files)


@pytest.mark.field("A24")
@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "socket", "nothing"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_a_payload_replaced_is_not_read_and_nobody_waits_for_it(
    work: Workdir, stream: str, kind: str
) -> None:
    """A FIFO in place of stderr kept a bare job running for ever: whoever opened it waited."""
    for path in (work.stdout, work.stderr):
        path.write_text("written\n")
    path = work.path / stream
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    attempt = attempt_of("true")
    attempt.work = work
    with tempfile.TemporaryFile() as file:
        log_tarball.write(attempt, work, file)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            assert f"1.1/{stream}" not in tar.getnames()
    assert tail(attempt, stream).startswith("(")
    follower = Follower(attempt)
    assert {piece.stream for piece in follower.news()} == {"stdout", "stderr"} - {stream}
    follower.rest().close()
    assert stderr_tail(work) == ("" if stream == "stderr" else "written")
