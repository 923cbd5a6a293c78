"""A relay from its site file to its end, in this process."""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import pytest

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client, Refused
from ailurus.wire.credentials import Trust, fixed_token
from ailurus.wire.retry import Patience
from harvester_edge.relay import keys, serve
from harvester_edge.site import Site
from tests.rig.ports import free_port


@pytest.mark.field("A17", "A2")
def test_a_relay_answers_over_tls_in_its_own_name(tree, tmp_path):
    where = f"127.0.0.1:{free_port()}"
    token = tmp_path / "relay.token"
    token.touch(0o600)
    token.write_text("t")
    part = {"token_file": str(token), "url": f"https://{where}", "listen": where}
    site = msgspec.convert({**tree, "network": "relay", "relay": part}, Site)
    site.relay_state.mkdir(parents=True)
    keys.made(site.relay_state, part["url"])

    def refused(token):
        trust = Trust(pin=keys.pin(site.relay_state))
        one = Client(part["url"], fixed_token(token), patience=Patience(total_s=5), trust=trust)
        with pytest.raises(Refused) as no:
            one.call("beat", m.Beat(room=Room(cores=1)), answer=m.BeatAnswer)
        return no.value

    async def main():
        serving = asyncio.create_task(serve._serve(site, Log("relay"), 10.0))
        try:
            errors = [await asyncio.to_thread(refused, token) for token in ("a", "b")]
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(serving, 10)
        return errors

    first, second = asyncio.run(main())
    assert (first.status, len(first.giver), first.giver) == (401, 16, second.giver)
    again = asyncio.run(main())
    assert again[0].giver == first.giver  # the name outlives a restart
