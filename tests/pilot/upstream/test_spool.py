"""R4: a journal on a disk without room."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

import pytest

from ailurus.protocol.messages import Report
from pilot.upstream.spool import Begun, Spool


@contextlib.contextmanager
def room_for(more, spool):
    """No file may grow by more than so many bytes: what a full disk is to a journal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.own.path.stat().st_size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", "dead")


def begun(nr):
    return Begun(job_id=nr, attempt_nr=1, report_key="k" * 40, outputs=(f"file:///out/{nr}",))


def report(nr, diagnosis=""):
    return Report(job_id=nr, attempt_nr=1, report_key="k" * 40, finished=True, diagnosis=diagnosis)


def owed_by_the_dead(spool, tmp_path):
    """What a pilot that comes after the death of the first one finds."""
    os.close(spool.own._fd)  # its lock goes with it
    (journal,) = Spool(tmp_path / "spool", "next").orphans()
    return {one.report.job_id: one for one in journal.owed()}


@pytest.mark.parametrize("room", [0, 1, 100])
def test_r4_who_reported_from_memory_is_not_taken_for_killed(spool, tmp_path, room):
    spool.own.begin([begun(1), begun(2)])
    with room_for(room, spool), pytest.raises(OSError, match="File too large"):
        spool.own.keep(report(1, "long" * 100))
    owed = owed_by_the_dead(spool, tmp_path)
    assert list(owed) == [2]  # job 1: no leftovers to delete, they are outputs that it reported
    assert owed[2].leftovers == ("file:///out/2",)


@pytest.mark.parametrize("room", [0, 1, 30, 100])
def test_r4_what_was_not_written_whole_spoils_nothing_that_comes_after(spool, tmp_path, room):
    spool.own.begin([begun(1), begun(2)])
    with room_for(room, spool):
        with pytest.raises(OSError, match="File too large"):
            spool.own.begin([begun(3)])
        spool.own.settle([(1, 1)])
    spool.own.begin([begun(4)])
    spool.own.keep(report(2))
    owed = owed_by_the_dead(spool, tmp_path)
    assert set(owed) <= {1, 2, 4}
    assert {2, 4} <= set(owed)
    assert owed[2].report == report(2)


def test_r4_what_is_settled_without_room_to_say_so_is_reported_once_more(spool, tmp_path):
    spool.own.begin([begun(1), begun(2)])
    spool.own.keep(report(1))
    with room_for(0, spool):
        spool.own.settle([(1, 1)])
    assert owed_by_the_dead(spool, tmp_path)[1].report == report(1)
