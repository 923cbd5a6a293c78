"""Files that somebody else may have put there: no link is followed, and nothing makes a reader
wait."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.regular import NotRegular, open_regular
from dispatcher.auth import keys


def test_a_regular_file_is_opened_by_its_path_and_in_an_open_directory(tmp_path):
    (tmp_path / "file").write_text("text")
    directory = os.open(tmp_path, os.O_RDONLY)
    for fd in (open_regular(tmp_path / "file"), open_regular(b"file", directory)):
        with os.fdopen(fd) as file:
            assert file.read() == "text"
            assert not os.get_inheritable(file.fileno())
    os.close(directory)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="link") as raised:
        open_regular(tmp_path / "link")
    assert raised.value.errno == errno.ELOOP


def test_what_is_no_file_is_refused_at_once_and_stays_closed(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path / "fifo", tmp_path, "/dev/null"):
        with pytest.raises(NotRegular, match="not a regular file"):
            open_regular(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_dispatcher_does_not_wait_for_keys_from_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "keys.json", 0o600)
    with pytest.raises(AilurusError, match="not a regular file"):
        keys.read(tmp_path / "keys.json")
