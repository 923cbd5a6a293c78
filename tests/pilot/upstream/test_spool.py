"""R4: a journal on a disk without room."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal

import msgspec
import pytest

from ailurus.protocol.errors import AilurusError
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


def test_what_uploads_left_is_owed_with_the_report_until_the_dispatcher_and_storage_are_done(
    spool, tmp_path
):
    spool.own.begin([begun(1)])
    spool.own.keep(report(1), ["file:///out/part"])
    assert owed_by_the_dead(spool, tmp_path)[1].leftovers == ("file:///out/part",)


def test_r4_what_is_settled_without_room_to_say_so_is_reported_once_more(spool, tmp_path):
    spool.own.begin([begun(1), begun(2)])
    spool.own.keep(report(1))
    with room_for(0, spool):
        spool.own.settle([(1, 1)])
    assert owed_by_the_dead(spool, tmp_path)[1].report == report(1)


def journals(directory):
    return [
        one.path.name for one in Spool(directory, f"next{len(list(directory.iterdir()))}").orphans()
    ]


def test_a_journal_of_a_pilot_that_lives_is_its_own(spool, tmp_path):
    spool.own.begin([begun(1)])
    assert journals(tmp_path / "spool") == []


@pytest.mark.parametrize(("host", "adopted"), [("n1", True), ("n2", False), (None, False)])
def test_where_locks_are_seen_on_their_own_node_only_others_journals_are_left(
    spool, monkeypatch, host, adopted
):
    """Or the pilots of other nodes, which live, would be told dead. One without debts has no host:
    its pilot may live, and would write on into a file that is gone."""
    if host is not None:
        spool.own.begin([msgspec.structs.replace(begun(1), host=host)])
    os.close(spool.own._fd)
    monkeypatch.setattr("pilot.upstream.spool.locks_are_local", lambda _: True)
    monkeypatch.setattr("socket.gethostname", lambda: "n1")
    found = [one.path for one in Spool(spool.directory, "next").orphans()]
    assert found == ([spool.own.path] if adopted else [])
    assert spool.own.path.exists()


def test_what_is_torn_or_newer_spoils_nothing_that_is_whole(spool, tmp_path):
    spool.own.begin([begun(1), begun(2)])
    with spool.own.path.open("ab") as file:
        file.write(
            b'{"type":"of tomorrow"}\n{"type":"settled","job_id":1,"attempt_nr":1}\n{"type":"beg'
        )
    assert list(owed_by_the_dead(spool, tmp_path)) == [2]


def test_a_link_and_another_users_journal_are_left_alone(spool, tmp_path, monkeypatch):
    directory = tmp_path / "spool"
    (directory / "link.journal").symlink_to("/etc/passwd")
    (directory / "foreign.journal").touch()
    fstat = os.fstat

    def foreign(fd):
        found = list(fstat(fd))
        found[4] = os.geteuid() + 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", foreign)
    assert journals(directory) == []


def test_a_journal_that_its_pilot_removes_meanwhile_is_none(spool, tmp_path, monkeypatch):
    directory = tmp_path / "spool"
    (directory / "gone.journal").touch()
    flock = fcntl.flock

    def too_late(fd, how):
        (directory / "gone.journal").unlink(missing_ok=True)
        flock(fd, how)

    made = Spool(directory, "next")
    monkeypatch.setattr(fcntl, "flock", too_late)
    assert list(made.orphans()) == []


def test_a_journal_without_debts_is_removed_and_one_with_them_stays(spool, tmp_path):
    spool.own.begin([begun(1)])
    spool.own.keep(report(1))
    spool.own.settle([(1, 1), (9, 9)])
    assert spool.own.path.stat().st_size == 0
    spool.own.close()
    assert not spool.own.path.exists()
    other = Spool(tmp_path / "spool", "other")
    other.own.begin([begun(1)])
    assert other.own.directories() == [""]
    other.own.close()
    assert other.own.path.exists()


@pytest.mark.parametrize("kind", ["open", "link", "under a file"])
def test_a_spool_that_others_can_read_or_that_cannot_be_made_is_refused(tmp_path, kind):
    directory = tmp_path / "spool"
    if kind == "open":
        directory.mkdir(mode=0o755)
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "real")
    else:
        directory.write_bytes(b"")
        directory = directory / "below"
    with pytest.raises(AilurusError, match="the spool"):
        Spool(directory, "me")
