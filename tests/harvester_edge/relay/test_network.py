"""One line of a site file says how pilots reach the dispatcher."""

from __future__ import annotations

import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.worker import Phase
from ailurus.tasks import Tasks
from harvester_edge import lint
from harvester_edge.launch import launch
from harvester_edge.relay import keys
from harvester_edge.relay.behind import behind
from harvester_edge.relay.proof import NOTE, sum_of
from harvester_edge.relay.serve import _store
from harvester_edge.relay.store import RelayStore
from harvester_edge.site import Site

RELAY = {"token_file": "/etc/ailurus/relay.token", "url": "https://login:8443"}


def site(tree: dict[str, Any], **more: Any) -> Site:
    return msgspec.convert({**tree, **more}, Site)


def rules(tmp_path: Path, tree: dict[str, Any], **more: Any) -> list[str]:
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump({**tree, **more}))
    return [f"{one.rule} {one.key}" for one in lint.faults(file) if one.rule.startswith("E")]


def test_direct_pilots_are_told_the_dispatcher(tree):
    made = launch(site(tree), "std", "T")
    assert (made.url, made.trust) == ("http://127.0.0.1:9", ())


def test_relayed_pilots_are_told_the_relay_and_its_certificate(tree, tmp_path):
    here = site(tree, network="relay", relay=RELAY)
    with pytest.raises(AilurusError, match="harvester-edge relay"):
        launch(here, "std", "T")
    here.relay_state.mkdir(parents=True)
    _, key = keys.made(here.relay_state, RELAY["url"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = launch(here, "std", "T")
    assert (made.url, made.trust) == (RELAY["url"], ("--pin", keys.pin(here.relay_state)))
    assert keys.made(here.relay_state, RELAY["url"])[1] == key
    assert launch(here, "std", "T").trust == made.trust


def test_spooled_pilots_are_told_the_directory(tree):
    here = site(tree, network="spool", relay=RELAY)
    assert launch(here, "std", "T").url == f"spool://{here.shared}/relay-spool"


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({}, []),
        ({"network": "relay", "relay": RELAY}, []),
        ({"network": "spool", "relay": {"token_file": "/t"}}, []),
        ({"network": "relay"}, ["E024 network"]),
        ({"network": "relay", "relay": {"token_file": "/t"}}, ["E024 relay.url"]),
        ({"network": "relay", "relay": {**RELAY, "url": "http://login:8443"}}, ["E024 relay.url"]),
        ({"network": "relay", "relay": {**RELAY, "listen": "login"}}, ["E010 relay.listen"]),
        ({"network": "relays", "relay": RELAY}, ["E011 network"]),
        (
            {"network": "spool", "relay": RELAY, "container": {"bare": True}},
            ["E024 container.bare"],
        ),
    ],
)
def test_lint_knows_what_goes_together(tree, tmp_path, more, found):
    assert rules(tmp_path, tree, **more) == found


def test_the_edge_notes_who_may_register_and_for_how_long_they_may_be_silent(world, tree):
    world.edge.site = site(tree, network="spool", relay={**RELAY, "outage_tolerance": "3h"})
    world.dispatcher.jobs = 1
    asked = []
    answer = world.dispatcher._intent
    world.dispatcher._intent = lambda ask: asked.append(ask) or answer(ask)
    world.cycle()
    ((tag, _),) = world.batch.orders
    note = world.edge.worker_directories / tag / "0" / NOTE
    assert note.read_bytes() == sum_of("token-0")
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert asked[0].outage_s == 3 * 3600


@pytest.mark.parametrize("text", [b"no" * 9999, b""])
def test_a_spoilt_store_of_the_relay_is_named(world, tree, text):
    world.edge.site = here = site(tree, network="spool", relay=RELAY)
    world.dispatcher.jobs = 1
    here.relay_state.mkdir()
    (here.relay_state / "relay.sqlite").write_bytes(text)
    assert "relay.sqlite" in world.cycle().binding.why
    assert world.batch.orders == []
    if text:
        with pytest.raises(
            AilurusError, match=r"cannot use .*relay\.sqlite: .* move relay\.sqlite"
        ):
            _store(here.relay_state / "relay.sqlite", Tasks(Log("relay")))


def test_a_path_may_hold_what_a_url_may_not(tree):
    tree["paths"]["state"] += "/a %20#?b"
    here = site(tree, network="spool", relay=RELAY)
    here.relay_state.mkdir(parents=True)
    RelayStore(here.relay_state / "relay.sqlite").close()
    assert behind(here) == ""


def test_an_edge_judges_nobody_before_the_relay_has_told_everything(world, tree):
    """Else a worker whose registration is on its way would never have registered."""
    world.edge.site = here = site(tree, network="spool", relay=RELAY)
    world.dispatcher.jobs = 1
    world.cycle()
    world.batch.set(Phase.ACTIVE)
    here.relay_state.mkdir()
    RelayStore(here.relay_state / "relay.sqlite").close()
    assert behind(here) == ""
    with closing(sqlite3.connect(here.relay_state / "relay.sqlite")) as db, db:
        db.execute(
            "insert into pilot values ('i', 't', 'c', '', '', -1, 0, ?, 0, '', '')", (time.time(),)
        )
    assert "1 pilots" in behind(here)
    world.cycle(400)
    assert [one.ended for one in world.workers()] == [None]
    with closing(sqlite3.connect(here.relay_state / "relay.sqlite")) as db, db:
        db.execute("delete from pilot")
        db.execute("insert into report values (1, 1, ?, '')", (time.time() - 60,))
    assert "1 reports" in behind(here)
    with closing(sqlite3.connect(here.relay_state / "relay.sqlite")) as db, db:
        db.execute("update report set at = ?", (time.time() - 5 * 3600,))  # it waits in vain
    assert behind(here) == ""
    world.dispatcher.jobs = 0
    world.cycle(400)
    assert world.workers() == []
