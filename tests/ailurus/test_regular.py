"""Files that somebody else may have put there: no link is followed, and nothing makes a reader
wait."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.regular import MOST_BYTES, NotRegular, open_regular, settings_in
from dispatcher.auth import keys
from dispatcher.catalogue import settings as catalogue
from harvester_edge.lint import document
from pilot.site import read as read_site
from plugins.rucio_client import ClientOptions, client_of


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


def test_settings_are_read_through_a_link_and_only_from_a_file_that_ends(tmp_path):
    (tmp_path / "file").write_text("a: 1")
    (tmp_path / "link").symlink_to("file")
    assert settings_in(tmp_path / "link") == b"a: 1"
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(NotRegular, match="is not a regular file"):
            settings_in(path)
    with (tmp_path / "long").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(NotRegular, match="has more than 4 MiB"):
        settings_in(tmp_path / "long")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="link"):
        settings_in(tmp_path / "loop")


@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_each_program_refuses_settings_that_are_no_file(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    given = tmp_path / path
    for read in (lambda: read_site(given), lambda: catalogue.read(given)):
        with pytest.raises(AilurusError, match="is not a regular file"):
            read()
    (fault,) = document.read(given).faults
    assert "is not a regular file" in fault.message
    with pytest.raises(NotRegular):
        client_of(ClientOptions(config=str(given)))
