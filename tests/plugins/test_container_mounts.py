"""The wait for an image's mount."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugins.container import mounts
from tests.rig.waiting import until


@contextmanager
def sleeping(*before: str) -> Iterator[int]:
    with subprocess.Popen([*before, "/bin/sleep", "60"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_the_mounts_of_a_process_that_is_not_apart_yet_are_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(mounts, "_LOOK_MS", 5000)
    with sleeping() as pid:
        began = time.monotonic()
        # Even what is mounted here: there it may go yet.
        assert not mounts._is_mounted(pid, Path("/proc"))
        assert time.monotonic() - began < 2


@pytest.mark.real
def test_the_mounts_of_one_that_is_apart_are_seen(need) -> None:
    unshare = need("unshare")
    with sleeping(unshare, "--user", "--map-root-user", "--mount", "--") as pid:
        until(lambda: mounts._is_mounted(pid, Path("/proc")))
