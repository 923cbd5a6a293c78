"""The connection to the dispatcher: registering, and the token that comes with it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client, Nonsense, Refused, Unreachable
from ailurus.wire.retry import Patience
from ailurus.wire.spool import SpoolClient
from pilot.upstream import link as links
from pilot.upstream.link import ONCE, Dismissed, Link
from tests.pilot.fakes import FakeClock

GIVER = "the-dispatcher"
PILOT = m.Register(instance="i", queue="q", total=Room(cores=1, memory_mb=1000, disk_mb=1000))
GOOD = m.Registered(worker_id=7, token="t7", heartbeat_s=10.0, lease_s=30.0, giver=GIVER)


class Server:
    """A client whose answers a test lines up."""

    def __init__(self, *answers: Any) -> None:
        self.answers = deque(answers)
        self.names: list[str] = []

    def call(self, name: str, ask: Any = None, *, answer: type, **_: object) -> Any:
        self.names.append(name)
        given = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if isinstance(given, Exception):
            raise given
        return given


def link_to(*answers: Any, panda: bool = False) -> tuple[Link, Server, FakeClock]:
    server, clock = Server(*answers), FakeClock()
    made = Link("http://127.0.0.1:1", None, PILOT, panda=server, clock=clock)
    made._foreign = panda
    return made, server, clock


def refused(status: int, giver: str = GIVER) -> Refused:
    return Refused(m.Problem(title="no", status=status, giver=giver))


def test_a_registration_gives_a_worker_and_its_token():
    link, server, clock = link_to(GOOD)
    assert link.register(ONCE) == GOOD
    assert (link.registered.worker_id, link._worker_token()) == (7, "t7")
    assert (server.names, clock.waits) == (["register"], [])


@pytest.mark.parametrize(
    ("credential", "remedy"), [(None, "--token-file FILE"), (lambda: "t", "`dispatcher token`")]
)
def test_a_pilot_whose_token_is_refused_says_what_to_do_about_it(credential, remedy):
    server = Server(refused(401))
    link = Link("http://127.0.0.1:1", credential, PILOT, panda=server, clock=FakeClock())
    link._foreign = False
    with pytest.raises(Dismissed) as caught:
        link.register(ONCE)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("status", "stray"), [(401, False), (403, False), (409, True), (410, True)]
)
def test_a_dispatcher_that_refuses_a_pilot_dismisses_it_at_once(status, stray):
    link, server, _ = link_to(refused(status))
    with pytest.raises(Dismissed) as error:
        link.register(Patience(total_s=60))
    assert error.value.stray is stray
    assert len(server.names) == 1


@pytest.mark.parametrize("failure", [Nonsense("<html>"), refused(404, giver="")])
def test_another_service_at_its_address_is_waited_out_until_patience_ends(failure):
    link, server, clock = link_to(failure)
    began = clock.now
    with pytest.raises((Nonsense, Unreachable)):
        link.register(Patience(total_s=60))
    assert len(server.names) > 3
    assert clock.now - began <= 60


def test_a_dispatcher_that_comes_within_patience_is_found():
    link, _, clock = link_to(Nonsense("<html>"), Nonsense("<html>"), GOOD)
    assert link.register(Patience(total_s=60)).worker_id == 7
    assert len(clock.waits) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_panda_server_refuses_tokens_by_an_http_status(status):
    link, _, _ = link_to(refused(status, giver=links.STRANGER), panda=True)
    with pytest.raises(Dismissed):
        link.register(ONCE)
    ours, _, _ = link_to(refused(status, giver=links.STRANGER))
    with pytest.raises(Unreachable):
        ours.register(ONCE)


def test_a_no_counts_only_from_the_dispatcher_that_registered_the_worker():
    ask = m.Beat(room=PILOT.total)
    link, server, _ = link_to(GOOD, m.Done())
    link.register(ONCE)
    assert link.call("beat", ask, answer=m.Done) == m.Done()
    server.answers = deque([refused(410)])
    with pytest.raises(Dismissed):
        link.call("beat", ask, answer=m.Done)
    server.answers = deque([refused(400)])
    with pytest.raises(Refused):
        link.call("beat", ask, answer=m.Done)
    server.answers = deque([refused(410, giver="another")])
    with pytest.raises(Unreachable):
        link.call("beat", ask, answer=m.Done)


def test_a_token_that_is_refused_is_replaced_by_registering_again():
    newer = m.Registered(worker_id=7, token="t8", heartbeat_s=10.0, lease_s=30.0, giver=GIVER)
    link, server, _ = link_to(GOOD, newer, refused(410))
    link.register(ONCE)
    assert link._worker_token(fresh=True) == "t8"
    with pytest.raises(Dismissed):
        link._worker_token(fresh=True)
    assert server.names == ["register"] * 3


def test_a_spool_is_written_and_a_server_is_called(tmp_path):
    (tmp_path / "ask").mkdir()
    assert type(links._client(f"spool://{tmp_path}", None)) is SpoolClient
    assert type(links._client("http://127.0.0.1:1", None)) is Client
