"""What happens while `dispatcher serve` serves: signals, new keys and certificates, the
watchdog."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import ssl
from argparse import Namespace
from typing import TYPE_CHECKING

from ailurus import systemd
from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol.errors import AilurusError
from dispatcher.cli.place import place_of

if TYPE_CHECKING:
    from ailurus.server import Server
    from dispatcher.auth.tokens import Issuer
    from dispatcher.door.access_log import AccessLog

LOOK_S = 5.0
log = Log("serve")


async def until_told(
    args: Namespace,
    server: Server,
    issuer: Issuer,
    access: AccessLog | None,
    sockets: list[socket.socket],
) -> bool:
    """Serve until a signal ends it. Whether it is to start again."""
    again = False

    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
        systemd.notify("STOPPING=1")
        server.should_exit = True

    def restart() -> None:
        nonlocal again
        again = True
        systemd.reloading()
        server.should_exit = True

    def reload() -> None:
        systemd.reloading()
        if access is not None:
            access.reopen()
        _renew_certificate(args, server)
        _renew_keys(args, issuer)
        systemd.notify("READY=1")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGUSR2, restart)
    loop.add_signal_handler(signal.SIGHUP, reload)
    systemd.notify("READY=1")
    # ours stay open: uvicorn closes what it is given
    await server.serve(sockets=[one.dup() for one in sockets])
    return again


def _renew_certificate(args: Namespace, server: Server) -> None:
    """Read the certificate anew, for connections from now on. One that is no good changes
    nothing."""
    context = server.config.ssl
    if context is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            args.tls_cert, args.tls_key
        )
        context.load_cert_chain(args.tls_cert, args.tls_key)
    except OSError as error:
        log.error("certificate_refused", file=args.tls_cert, reason=str(error))  # noqa: TRY400
    else:
        log.info("certificate_read", file=args.tls_cert)


def _renew_keys(args: Namespace, issuer: Issuer) -> None:
    """Sign and check with the keys that are in the file now. A file that is no good changes
    nothing."""
    from dispatcher.auth import keys

    try:
        kept = keys.read(place_of(args.store, args.keys).keys)
        issuer.take(kept)
    except (AilurusError, ValueError, TypeError) as error:
        log.error("keys_refused", reason=str(error))  # noqa: TRY400
    else:
        log.info("keys_read", kids=[key.kid for key in kept.keys])


async def watchdog(loop: Loop) -> None:
    """Tell the service manager that the event loop turns, and the log when descriptors run out."""
    every = systemd.watchdog_s()
    pause_s = LOOK_S if every is None else min(every, LOOK_S)
    while True:
        loop.turned(pause_s)
        if every is not None:
            systemd.notify("WATCHDOG=1")
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            held = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- numbers are all that is wanted
        except OSError:
            # Not even one for this.
            held = limit
        # Beyond, connections are let go as they come.
        if held > 0.9 * limit:
            log.warning("descriptors_short", held=held, limit=limit)
        await asyncio.sleep(pause_s)
