"""The door through a shared directory: whole files, a bounded number of looks, nothing left
behind."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.resources import Room
from ailurus.tasks import Tasks
from ailurus.wire.client import Refused, Unreachable
from ailurus.wire.credentials import fixed_token
from ailurus.wire.retry import Patience
from ailurus.wire.spool import SpoolClient, put
from harvester_edge.relay import spool as spools
from harvester_edge.relay.door import Door
from harvester_edge.relay.spool import Spool
from harvester_edge.relay.state import Refusal
from tests.rig.waiting import until

ONCE = Patience(total_s=0.0)
BEAT = m.Beat(room=Room(cores=1))


class Echo:
    """A relay that knows one token."""

    name = "echo"

    def __init__(self) -> None:
        self.beats = 0

    def who(self, token: str) -> str:
        if token != "good":
            raise Refusal(401, "no valid token")
        return token

    async def beat(self, ask: m.Beat, pilot: str) -> m.BeatAnswer:
        self.beats += 1
        return m.BeatAnswer(heartbeat_s=7)


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A spool that is looked after, and its echo."""
    monkeypatch.setattr(spools, "LOOK_S", 0.05)
    echo, loop = Echo(), asyncio.new_event_loop()
    tasks = Tasks(Log("relay"))
    spool = Spool(tmp_path / "spool", Door(echo, Log("relay")), Log("relay"), tasks)  # type: ignore[arg-type]
    task = loop.create_task(spool.serve(tasks.add("spool")))
    thread = threading.Thread(target=lambda: _run(loop, task))
    thread.start()
    yield spool, echo
    loop.call_soon_threadsafe(task.cancel)
    thread.join()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_until(task))


async def _until(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})


def client(spool: Spool, shown: str = "good") -> SpoolClient:
    return SpoolClient(f"spool://{spool.directory}", fixed_token(shown), patience=ONCE)


def test_a_request_is_answered_and_leaves_nothing(serving):
    spool, echo = serving
    assert client(spool).call("beat", BEAT, answer=m.BeatAnswer).heartbeat_s == 7
    until(lambda: not list(spool.directory.glob("*/*/*")), 5, "something is left")
    assert echo.beats == 1


def test_a_refusal_is_one_as_over_http(serving):
    spool, _ = serving
    with pytest.raises(Refused) as no:
        client(spool, "bad").call("beat", BEAT, answer=m.BeatAnswer)
    assert no.value.status == 401


def test_p10_what_is_no_request_is_removed_and_harms_nobody(serving):
    spool, echo = serving
    for nr, text in enumerate(
        (b"", b"{}", b"\0" * 100, b'{"path":"/etc","token":"","body":"","until":9e9}')
    ):
        put(spool.directory / "ask" / "0" / f"{nr}", text)
    os.mkfifo(spool.directory / "ask" / "1" / ".pipe")
    assert client(spool).call("beat", BEAT, answer=m.BeatAnswer).heartbeat_s == 7

    def left() -> list[str]:
        return [one.name for one in spool.directory.glob("ask/*/*")]

    until(lambda: left() == [".pipe"], 5, "not removed")
    assert echo.beats == 1


def test_without_a_relay_a_client_says_so_and_takes_its_request_back(serving, monkeypatch):
    spool, _ = serving
    monkeypatch.setattr("ailurus.wire.spool.SLACK_S", 0.3)
    quiet = spool.directory.parent / "quiet"
    for way in ("ask", "answer"):
        for fan in "0123456789abcdef":
            (quiet / way / fan).mkdir(parents=True)
    with pytest.raises(Unreachable):
        SpoolClient(f"spool://{quiet}", None, patience=ONCE).call("beat", BEAT, answer=m.BeatAnswer)
    assert list(quiet.glob("*/*/*")) == []
    with pytest.raises(AilurusError, match="no relay"):
        SpoolClient("spool:///nowhere", None)


def test_a_waiting_client_looks_ever_more_rarely(serving, monkeypatch):
    spool, _ = serving
    looks: list[float] = []
    one = client(spool, "good")
    one._sleep = looks.append
    monkeypatch.setattr("ailurus.wire.spool.SLACK_S", 0.05)
    monkeypatch.setattr("ailurus.wire.spool.taken", lambda path: None)
    with pytest.raises(Unreachable):
        one.call("beat", BEAT, answer=m.BeatAnswer)
    assert looks[:3] == pytest.approx([0.05, 0.075, 0.1125])
    assert max(looks) <= 2.0


def test_what_is_no_file_is_not_opened_and_holds_up_nobody(serving, monkeypatch):
    spool, echo = serving
    opened: list[Path] = []
    monkeypatch.setattr(
        spools, "_read", lambda path, read=spools._read: opened.append(path) or read(path)
    )
    for fan in "0123456789":  # more than there are threads
        for name in ("fifo", "another", "third", "fourth"):
            os.mkfifo(spool.directory / "ask" / fan / name)
    (spool.directory / "ask" / "0" / "directory").mkdir()
    (spool.directory / "ask" / "0" / "link").symlink_to("/dev/zero")
    for _ in range(3):
        assert client(spool).call("beat", BEAT, answer=m.BeatAnswer).heartbeat_s == 7
    assert len(opened) == echo.beats == 3


def test_what_cannot_be_answered_is_tried_rarely(serving, monkeypatch):
    spool, echo = serving
    tried: list[Path] = []

    def full(path: Path, text: bytes) -> None:
        tried.append(path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spools, "put", full)
    monkeypatch.setattr("ailurus.wire.spool.SLACK_S", 0.6)
    with pytest.raises(Unreachable):
        client(spool).call("beat", BEAT, answer=m.BeatAnswer)
    assert len(tried) == echo.beats == 1


def test_a_spool_that_somebody_has_removed_is_made_again(serving):
    spool, _ = serving
    spool.directory.rename(spool.directory.with_name("gone"))
    until(lambda: len(list(spool.directory.glob("a*/*"))) == 32, 5, "not made again")
    assert client(spool).call("beat", BEAT, answer=m.BeatAnswer).heartbeat_s == 7


def test_what_is_old_goes_and_a_directory_stops_no_sweep(serving):
    spool, _ = serving
    (spool.directory / "answer" / "0" / "directory").mkdir()
    for fan in "0f":
        (spool.directory / "answer" / fan / "left").touch()
    for path in spool.directory.glob("answer/*/*"):
        os.utime(path, (1, 1))
    spool._sweep()
    assert [one.name for one in spool.directory.glob("*/*/*")] == ["directory"]
