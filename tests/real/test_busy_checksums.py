"""A server that computes few checksums at a time lets others wait half a minute: no transfer is
made to wait."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import msgspec
import pytest

from pilot.ports import Moved, Progress, ToGet, ToPut
from plugins import load
from plugins.data.moving import system_module
from tests.rig.services import running, xrootd_needed

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(60)]
FILES = 60
STALL_S = 10  # less than a server lets clients wait


def test_files_go_and_come_where_a_server_computes_one_checksum_at_a_time(
    need, tmp_path: Path, monkeypatch
):
    xrootd_needed(need)
    try:
        system_module("XRootD.client")
    except ImportError:
        pytest.skip("no XRootD.client for this Python: its package")
    monkeypatch.setenv("XROOTD_CHECKSUMS", "1")
    kind = load("mover", "xrootd")
    content = os.urandom(60_000)
    adler32 = f"{zlib.adler32(content):08x}"
    (tmp_path / "one").write_bytes(content)
    with running("xrootd") as service:
        options = {"ca_dir": service.facts["ca_dir"], "parallel": 8, "stall": STALL_S}
        mover = kind(msgspec.convert(options, kind.Options))
        urls = [f"{service.facts['root']}/many/{nr}" for nr in range(FILES)]

        def ends(move, files) -> list[str]:
            told = []
            move(files, told.append)
            arrived = [one for one in told if not isinstance(one, Progress)]
            assert all(isinstance(one, Moved) for one in arrived), arrived
            return [one.adler32 for one in arrived]

        source = str(tmp_path / "one")
        sent = [
            ToPut(key=nr, url=url, path=source, size=len(content)) for nr, url in enumerate(urls)
        ]
        assert ends(mover.put, sent) == [adler32] * FILES
        wanted = [
            ToGet(key=nr, url=url, path=str(tmp_path / f"got{nr}"), adler32=adler32)
            for nr, url in enumerate(urls)
        ]
        assert ends(mover.get, wanted) == [adler32] * FILES
