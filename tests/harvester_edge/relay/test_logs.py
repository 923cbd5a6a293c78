"""What a relay does with pieces of logs: the last one of each comes to the dispatcher."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.wire.client import Unreachable
from harvester_edge.relay import dispatcher as relay

pytestmark = pytest.mark.field("H2")


class Upstream:
    """A dispatcher that notes what it is told, while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.got: list[str] = []

    async def call(self, name: str, ask: m.RelayBeat, answer: object) -> m.RelayBeatAnswer:
        if not self.up:
            raise Unreachable("nobody answers")
        self.got += [piece.text for log in ask.logs for piece in log.log.pieces]
        return m.RelayBeatAnswer(workers=(), heartbeat_s=1.0)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def between(upstream: Upstream) -> relay.Exchange:
    async def clear(done: object, ended: object) -> None:
        pass

    state = SimpleNamespace(
        pilots={}, jobs={}, terms=SimpleNamespace(site="s"), upstream_heartbeat_s=1.0, clear=clear
    )
    return relay.Exchange(state, upstream, Log("test"))


def piece(text: str, *, final: bool = False) -> m.LogPiece:
    return m.LogPiece(job_id=1, attempt_nr=1, stream="stdout", offset=0, text=text, final=final)


def test_the_last_piece_waits_for_a_dispatcher_that_is_away(between, upstream):
    async def test() -> None:
        upstream.up = False
        between.pass_on(5, piece("live"))
        between.pass_on(5, piece("end", final=True))
        with pytest.raises(Unreachable):
            await between._tell()
        upstream.up = True
        await between._tell()
        assert upstream.got == ["end"]

    asyncio.run(test())


def test_many_ends_go_in_several_words_and_wait_in_bounded_memory(between, upstream, monkeypatch):
    monkeypatch.setattr(relay, "PIECES_BYTES", 1000)
    monkeypatch.setattr(relay, "ENDS_BYTES", 5000)

    async def test() -> None:
        for nr in range(100):
            between.pass_on(5, piece(f"{nr:03}" * 100, final=True))
        assert 5000 <= sum(len(one.text) for _, one in between._logs) < 5300
        await between._tell()
        assert len(upstream.got) == 3
        for _ in range(10):
            await between._tell()
        assert upstream.got[0].startswith("000")
        assert not between._logs

    asyncio.run(test())
