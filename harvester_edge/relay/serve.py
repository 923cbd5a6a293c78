"""A relay from its site file to its end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import sqlite3
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from ailurus import entry
from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.paths import expanded
from ailurus.protocol.errors import AilurusError
from ailurus.server import Guarded, Server
from ailurus.tasks import Tasks
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from harvester_edge import owned
from harvester_edge.client import private, trust
from harvester_edge.loop_status import LoopStatusWriter
from harvester_edge.relay import keys
from harvester_edge.relay.dispatcher import Exchange
from harvester_edge.relay.door import Door
from harvester_edge.relay.http import application
from harvester_edge.relay.pilots import Pilots
from harvester_edge.relay.proof import planned
from harvester_edge.relay.spool import Spool
from harvester_edge.relay.state import RelayState, Terms
from harvester_edge.relay.store import RelayStore
from harvester_edge.relay.upstream import THREADS, RelayUpstream
from harvester_edge.site import Site

# No turn takes longer: a dispatcher that is silent is given up before.
STUCK_S = 120.0
# How often is said how the loops fare, if that has changed.
SAY_S = 5.0
# An idle connection is dear in memory, a new one in time.
KEEP_S = 15
BACKLOG = 4096


def run(site: Site, log: Log, heartbeat_s: float) -> None:
    """Serve until TERM or INT. Raises AilurusError if the site needs no relay."""
    if site.relay is None or site.network == "direct":
        raise AilurusError(
            f"pilots of {site.site} speak to the dispatcher directly",
            field="network",
            remedy="`network: relay` or `network: spool`, and a part `relay`",
        )
    for path, key in ((site.shared, "paths.shared"), (site.relay_state, "paths.state")):
        owned.own(path, key)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some descriptors a pilot.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(_serve(site, log, heartbeat_s))


async def _serve(site: Site, log: Log, heartbeat_s: float) -> None:
    assert site.relay is not None  # noqa: S101 - `run` asked
    token = TokenFile(private(Path(expanded(site.relay.token_file)), "relay.token_file", "relay"))
    client = Client(site.dispatcher.url, token, connections=THREADS, trust=trust(site))
    loops = Tasks(log)
    store = _store(site.relay_state / "relay.sqlite", loops)
    terms = Terms(site=site.site, prefetch=site.relay.prefetch, heartbeat_s=heartbeat_s)
    state = RelayState(terms, store)
    upstream = RelayUpstream(client, state, log)
    dispatcher = Exchange(state, upstream, log)
    pilots = Pilots(state, dispatcher, partial(planned, site.shared / "workers"), log)
    door = Door(pilots, log)
    stop = asyncio.Event()
    for number in {signal.SIGTERM, signal.SIGINT} | entry.hangup():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        with contextlib.ExitStack() as stack:
            if site.network == "spool":
                spool = Spool(site.relay_spool, door, log, loops)
                loops.task("spool", spool.serve, turn_s=STUCK_S)
                log.info("relay_started", spool=str(spool.directory), **state.counts())
            else:
                config = _config(site, door)
                listener = stack.enter_context(contextlib.closing(_socket(site.relay.listen)))
                loops.task("listen", partial(_listen, config, listener, loops))
                log.info("relay_started", listen=site.relay.listen, **state.counts())
            loops.task("fetch", dispatcher.fetch)
            loops.task("tell", dispatcher.tell, turn_s=STUCK_S)
            loops.task(
                "say", partial(_write_status, LoopStatusWriter(site.relay_state, loops, log))
            )
            await stop.wait()
    finally:
        await loops.end()
        upstream.close()
        store.close()
        log.info("relay_stopped", **state.counts())


def _store(path: Path, loops: Tasks) -> RelayStore:
    try:
        return RelayStore(path, loops)
    except sqlite3.Error as error:
        raise AilurusError(
            f"cannot use {path}: {error}",
            field="paths.state",
            remedy=(
                "is it a local disk with room? If the file is spoilt, move relay.sqlite* away: reports that "
                "were not told are lost with it, and the jobs of its pilots begin again"
            ),
        ) from None


async def _write_status(status: LoopStatusWriter, loop: Loop) -> None:
    """Tell how the loops fare, for `status` and `doctor`."""
    while True:
        loop.turned(SAY_S)
        await asyncio.sleep(SAY_S)
        status.write()


async def _listen(
    config: uvicorn.Config, listener: socket.socket, loops: Tasks, loop: Loop
) -> None:
    loop.turned(None)
    # Uvicorn closes what it is given.
    with contextlib.closing(listener.dup()) as copy:
        await Server(config, loops=loops).serve(sockets=[copy])


def _config(site: Site, door: Door) -> uvicorn.Config:
    assert site.relay is not None  # noqa: S101 - `run` asked
    assert site.relay.url is not None  # noqa: S101 - lint asked
    certificate, key = keys.made(site.relay_state, site.relay.url)
    return uvicorn.Config(
        application(door),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        http=Guarded,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_S,
        timeout_graceful_shutdown=2,
        server_header=False,
        date_header=False,
    )


def _socket(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        return socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise AilurusError(
            f"cannot listen at {listen}: {error.strerror}", field="relay.listen"
        ) from None
