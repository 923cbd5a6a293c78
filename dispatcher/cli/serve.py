"""`dispatcher serve`: one process, one event loop, one store."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import resource
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ailurus.output import Output
from dispatcher.cli.exits import CONFIGURATION, UNAVAILABLE, USAGE, Fault
from dispatcher.cli.place import Place, place_of

if TYPE_CHECKING:
    import uvicorn

STOP_S = 5  # what is in hand has this long to finish
TURN_S = 0.0005  # so long the event loop waits for a thread that checks or stores a big submission
RARELY = (
    50_000,
    20,
    100,
)  # allocations between collections: a whole one among 10,000 jobs is 15 ms


def arguments(parser: ArgumentParser) -> None:
    from ailurus.protocol.units import duration_s

    parser.add_argument("--store", required=True, metavar="URL", help="sqlite:///FILE")
    parser.add_argument(
        "--listen", default="127.0.0.1:8080", metavar="ADDRESS:PORT", help="port 0: any free one"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain in PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="its key in PEM")
    parser.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which clients may call this host, beside localhost and its address",
    )
    parser.add_argument(
        "--serve-everybody-without-tls",
        action="store_true",
        help="listen beyond loopback although anybody on the way can read tokens",
    )
    parser.add_argument(
        "--heartbeat", type=duration_s, metavar="10s", help="how often workers report"
    )
    panda = parser.add_argument_group("clients of PanDA")
    panda.add_argument(
        "--panda-open",
        action="append",
        default=[],
        metavar="QUEUE",
        help="serve this queue to pilots without a token",
    )
    panda.add_argument(
        "--panda-storage",
        default="",
        metavar="DIR",
        help="file storage of their sites, for the descriptions under /cache/",
    )
    panda.add_argument(
        "--panda-queues",
        type=Path,
        metavar="DIR",
        help="own descriptions: QUEUE.json, ddmendpoints.json",
    )
    panda.add_argument(
        "--panda-transforms", default="", metavar="URL", help="where pilots get the transform"
    )
    parser.add_argument(
        "--access-log", type=Path, metavar="FILE", help="a JSON line a request; HUP opens it anew"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="JSON lines; default: stderr")
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )


def main(args: Namespace, out: Output) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    import uvloop

    from ailurus import logs

    host, port = _address(args.listen)
    _check_exposure(args, host)
    place = place_of(args.store)
    if not place.keys.exists():
        raise Fault(
            CONFIGURATION,
            f"{place.keys} is missing: nobody could show a token",
            remedy=f"run `dispatcher init --store {args.store}` first",
        )
    logs.to(args.log, level=args.log_level)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a descriptor a waiting pilot
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(args, out, place, host, port))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise Fault(
            USAGE, f"{text!r} is not ADDRESS:PORT", field="--listen", remedy="127.0.0.1:8080"
        )
    return host.strip("[]"), int(port)


def _check_exposure(args: Namespace, host: str) -> None:
    if bool(args.tls_cert) != bool(args.tls_key):
        raise Fault(USAGE, "one of certificate and key is missing", field="--tls-cert, --tls-key")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not (loopback or args.tls_cert or args.serve_everybody_without_tls):
        raise Fault(
            USAGE,
            f"{host} can be reached by others, and without TLS they can read tokens on the way",
            field="--listen",
            remedy="give --tls-cert and --tls-key, listen on 127.0.0.1, or, where something in front "
            "does TLS, --serve-everybody-without-tls",
        )


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Fault(
            UNAVAILABLE,
            f"cannot listen on {host}:{port}: {error.strerror}",
            remedy="choose another port",
        ) from None
    listener.listen(2048)  # from here on clients may connect: they are answered once we run
    return listener


async def _serve(args: Namespace, out: Output, place: Place, host: str, port: int) -> int:
    from dispatcher import keys
    from dispatcher.app import make_app
    from dispatcher.auth import Issuer
    from dispatcher.console.app import console
    from dispatcher.core import Settings
    from dispatcher.health import Readiness
    from dispatcher.live import Live
    from dispatcher.metrics import Metrics
    from dispatcher.panda.door import Panda, PandaSettings
    from dispatcher.service import Service
    from dispatcher.store import open_store
    from dispatcher.traffic import AccessLog

    sys.setswitchinterval(TURN_S)
    gc.freeze()  # what is loaded by now stays
    gc.set_threshold(*RARELY)
    kept = keys.read(place.keys)
    issuer = Issuer(kept)

    def mint(subject: str, scopes: Iterable[str], lifetime_s: float, **claims: str | int) -> str:
        return issuer.mint(subject, scopes, lifetime_s, **claims).token

    settings = Settings() if args.heartbeat is None else Settings(heartbeat_s=args.heartbeat)
    secret = bytes.fromhex(kept.secret)
    panda = PandaSettings(
        open_queues=frozenset(args.panda_open),
        storage=args.panda_storage,
        folder=args.panda_queues,
        transforms=args.panda_transforms,
    )
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(_bound(host, port)))
        access = None
        if args.access_log is not None:
            access = stack.enter_context(contextlib.closing(AccessLog(args.access_log)))
        store = open_store(args.store)
        service = await Service.open(store, secret=secret, mint=mint, settings=settings)
        live = Live(service)
        try:
            app = make_app(
                service,
                issuer,
                console=console(),
                stream=live.stream,
                panda=Panda(service, issuer, panda),
                ready=Readiness(store).check,
                access=access,
                host_names=[*args.host_name, host, socket.gethostname()],
            )
            app.metrics = Metrics(service, app.traffic, place.store, lambda: app.held).page
            server = _server(app, args)
            _say(args, out, place, listener)
            await _until_told(server, app, listener)
        finally:
            live.close()
            await service.close()
    return 0


def _server(app: Any, args: Namespace) -> uvicorn.Server:
    import uvicorn

    from dispatcher.guard import Guarded

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield  # ours: uvicorn's would end the process before the store is closed

    config = uvicorn.Config(
        app,
        http=Guarded,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_S,
        ssl_certfile=args.tls_cert,
        ssl_keyfile=args.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise Fault(
            CONFIGURATION,
            f"cannot use {args.tls_cert} with {args.tls_key}: {error.strerror or error}",
            field="--tls-cert",
            remedy="give a certificate chain and its key in PEM",
        ) from None
    return Server(config)


async def _until_told(server: uvicorn.Server, app: Any, listener: socket.socket) -> None:
    def stop() -> None:
        app.close()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve(sockets=[listener])


def _say(args: Namespace, out: Output, place: Place, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
    scheme = "https" if args.tls_cert else "http"
    url = f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}"
    out.line(f"listening on {url}")
    out.line(
        f"console: {url}/console/ (sign in with a token, such as the one in {place.admin_token})"
    )
