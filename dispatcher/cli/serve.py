"""`dispatcher serve`: one process, one event loop, one store.

Signals: TERM and INT end it once what is in hand is answered, the second one at once; HUP reads
keys and certificate anew and reopens the access log; USR2 starts it anew in its place, from what is
installed now, without closing its door.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ailurus.logs import Log
from ailurus.output import Output
from ailurus.tasks import Tasks
from dispatcher.cli import listen, running
from dispatcher.cli.exits import CANNOT_CREATE, CONFIGURATION, CommandError
from dispatcher.cli.place import Place, place_of
from dispatcher.cli.place import arguments as store_arguments
from dispatcher.switch_interval import usual_interval

if TYPE_CHECKING:
    from ailurus.server import Server
    from dispatcher.auth.keys import Keys
    from dispatcher.auth.tokens import Issuer
    from dispatcher.catalogue.link import Link
    from dispatcher.catalogue.settings import CatalogueSettings
    from dispatcher.console.live import Live
    from dispatcher.door.access_log import AccessLog
    from dispatcher.door.app import App
    from dispatcher.door.session import Public
    from dispatcher.service import Service
    from dispatcher.service.state import Settings
    from dispatcher.telemetry.traces import Traces

# Before the name of a group, where a user's could stand.
GROUP = "group:"
# What is in hand has this long to finish.
STOP_S = 5
# Allocations between collections of garbage: a whole one among 10,000 jobs takes 15 ms.
RARELY = (50_000, 20, 100)
log = Log("serve")


def arguments(parser: ArgumentParser) -> None:
    store_arguments(parser)
    _door_arguments(parser)
    _queue_arguments(parser)
    _panda_arguments(parser)
    parser.add_argument(
        "--access-log", type=Path, metavar="FILE", help="a JSON line a request; HUP opens it anew"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="JSON lines; default: stderr")
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )


def _door_arguments(parser: ArgumentParser) -> None:
    """Where it listens, and by which names it is called."""
    parser.add_argument(
        "--listen", default="127.0.0.1:8080", metavar="ADDRESS:PORT", help="port 0: any free one"
    )
    parser.add_argument(
        "--share-port",
        action="store_true",
        help="other dispatchers of this host may listen here too, on a shared store",
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
        "--public-url",
        default="",
        metavar="URL",
        help="the address of its console where something in front of it ends TLS: https://NAME",
    )
    parser.add_argument(
        "--serve-everybody-without-tls",
        action="store_true",
        help="listen beyond loopback although anybody on the way can read tokens",
    )


def _queue_arguments(parser: ArgumentParser) -> None:
    """How long and for whom the queue works, and who may call."""
    from dispatcher.cli.words import rate, some_time

    parser.add_argument(
        "--heartbeat", type=some_time, metavar="10s", help="how often workers report"
    )
    parser.add_argument(
        "--edge-lease", type=some_time, metavar="2m", help="an edge so long silent may be replaced"
    )
    parser.add_argument(
        "--rate",
        type=rate,
        default=50.0,
        metavar="N",
        help="requests a second of one user, over time; 0: any number (default: 50)",
    )
    parser.add_argument(
        "--oidc",
        type=Path,
        metavar="FILE",
        help="other issuers whose tokens are good here, in YAML",
    )
    parser.add_argument(
        "--catalogue",
        type=Path,
        metavar="FILE",
        help="the catalogue of data in which outputs are registered, in YAML",
    )
    parser.add_argument(
        "--retention",
        type=some_time,
        metavar="30d",
        help="jobs that ended longer ago are moved away (`show` still finds them), their logs and the"
        " events of that time forgotten; default: everything stays",
    )
    parser.add_argument(
        "--share",
        action="append",
        default=[],
        type=_share,
        metavar="USER=N, group:NAME=N",
        help="this user's turns, beside one of each other's (default: 1); group:NAME=N: this group's,"
        " beside those of other groups; group:=N: of all who are in none of them",
    )
    parser.add_argument(
        "--otlp",
        metavar="URL",
        help="where traces of jobs are sent, as OTLP over HTTP: http://127.0.0.1:4318",
    )


def _panda_arguments(parser: ArgumentParser) -> None:
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
        help="own descriptions: site files, QUEUE.json, ddmendpoints.json",
    )
    panda.add_argument(
        "--panda-transforms", default="", metavar="URL", help="where pilots get the transform"
    )


def _share(text: str) -> tuple[str, float]:
    user, _, share = text.rpartition("=")
    # `inf` and `nan` are not either.
    if not user or not 0 < float(share) < 1e6:
        raise ValueError
    return user, float(share)


def main(args: Namespace, out: Output) -> int:
    """Serve until a signal ends it."""
    import uvloop

    from ailurus import logs

    sockets = listen.listeners(args)
    with contextlib.ExitStack() as stack:
        for one in sockets:
            stack.enter_context(one)
        place = place_of(args.store, args.keys)
        if not place.keys.exists():
            raise CommandError(
                CONFIGURATION,
                f"{place.keys} is missing: nobody could show a token",
                remedy=f"run `dispatcher init --store {args.store}` first",
            )
        try:
            logs.configure(args.log, level=args.log_level)
        except OSError as error:
            raise CommandError(
                CANNOT_CREATE,
                f"cannot write {args.log}: {error.strerror}",
                field="--log",
                remedy="name a file in a directory that this user may write to",
            ) from None
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        # A descriptor a waiting pilot.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            again = runner.run(_serve(args, out, place, sockets))
        if again:
            listen.restart(sockets)
    return 0


async def _serve(args: Namespace, out: Output, place: Place, sockets: list[socket.socket]) -> bool:
    """Whether it is to start again."""
    from dispatcher.accounts.rates import Limiter, Rates
    from dispatcher.auth import keys
    from dispatcher.console.live import Live
    from dispatcher.door.access_log import AccessLog
    from dispatcher.panda import queue_data
    from dispatcher.service import Service
    from dispatcher.store import open_store

    # What is wrong with an option is said before a store is opened.
    public = _public(args).url
    settings = _settings(args)
    link = None if settings.catalogue is None else _link(settings.catalogue)
    queue_data.check(args.panda_queues)
    kept = keys.read(place.keys)
    issuer = _issuer(args, kept)

    def mint(subject: str, scopes: Iterable[str], lifetime_s: float, **claims: str | int) -> str:
        return issuer.mint(subject, scopes, lifetime_s, **claims).token

    usual_interval()
    # What is loaded by now stays.
    gc.freeze()
    gc.set_threshold(*RARELY)
    with contextlib.ExitStack() as stack:
        access = None
        if args.access_log is not None:
            access = stack.enter_context(contextlib.closing(AccessLog(args.access_log)))
        service = await Service.open(
            open_store(args.store),
            secret=bytes.fromhex(kept.secret),
            mint=mint,
            settings=settings,
            limiter=Limiter(Rates(per_s=args.rate)) if args.rate > 0 else None,
            catalogue=None if link is None else link.ask,
        )
        live = Live(service)
        if issuer.foreign is not None:
            service.loops.task("issuers", issuer.foreign.keep_fresh)
        service.loops.task("watchdog", running.watchdog)
        traces = None if args.otlp is None else _traces(service, args.otlp)
        try:
            app = await _app(args, place, sockets, service, issuer, live, access)
            server = _server(app, args, service.loops)
            _say(args, out, place, sockets, public)
            return await running.until_told(args, server, issuer, access, sockets)
        finally:
            live.close()
            if traces is not None:
                await traces.close()
            await service.close()
            if link is not None:
                await link.close()


def _public(args: Namespace) -> Public:
    from dispatcher.door import session

    return session.Public.of(args.public_url) if args.public_url else session.NOT_TOLD


def _settings(args: Namespace) -> Settings:
    from dispatcher.catalogue import settings as catalogues
    from dispatcher.service.state import Settings

    given = {
        "heartbeat_s": args.heartbeat,
        "edge_lease_s": args.edge_lease,
        "retention_s": args.retention,
        "catalogue": None if args.catalogue is None else catalogues.read(args.catalogue),
        "shares": {name: share for name, share in args.share if not name.startswith(GROUP)},
        "groups": {
            name.removeprefix(GROUP): share for name, share in args.share if name.startswith(GROUP)
        },
    }
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _link(catalogue: CatalogueSettings) -> Link:
    from dispatcher.catalogue import messages
    from dispatcher.catalogue.link import Link

    return Link(messages.Begin(kind=catalogue.kind, options=catalogue.options))


def _issuer(args: Namespace, kept: Keys) -> Issuer:
    from dispatcher.auth import oidc
    from dispatcher.auth.tokens import Issuer

    issuer = Issuer(kept)
    if args.oidc is not None:
        issuer.trust(oidc.Foreign(oidc.read(args.oidc)))
    return issuer


async def _app(
    args: Namespace,
    place: Place,
    sockets: list[socket.socket],
    service: Service,
    issuer: Issuer,
    live: Live,
    access: AccessLog | None,
) -> App:
    """The door before the service, with all that is behind it."""
    from dispatcher.auth.revocation import Revocations
    from dispatcher.console.app import console
    from dispatcher.door.access_log import Traffic
    from dispatcher.door.app import App
    from dispatcher.door.readiness import Readiness
    from dispatcher.door.settings import DoorSettings, Waiting
    from dispatcher.panda.door import Panda, PandaSettings
    from dispatcher.telemetry.metrics import Metrics

    panda = PandaSettings(
        open_queues=frozenset(args.panda_open),
        storage=args.panda_storage,
        folder=args.panda_queues,
        transforms=args.panda_transforms,
    )
    revocations = Revocations(service.store, issuer)
    await revocations.open()
    traffic, waiting = Traffic(access), Waiting()
    settings = DoorSettings(
        console=console(),
        stream=live.stream,
        panda=Panda(service, issuer, panda),
        ready=Readiness(service.store, service.workers.rehearse).check,
        metrics=Metrics(service, traffic, place.store, waiting.__len__).page,
        revocations=revocations,
        limiter=service.state.limiter,
        host_names=[*args.host_name, *_names(sockets)],
        public=_public(args),
        giver=service.state.giver,
        traffic=traffic,
        waiting=waiting,
    )
    return App(service.handlers(), issuer, settings)


def _traces(service: Service, endpoint: str) -> Traces:
    try:
        from dispatcher.telemetry.traces import Traces
    except ImportError:
        raise CommandError(
            CONFIGURATION,
            "traces need OpenTelemetry",
            field="--otlp",
            remedy="pip install 'ailurus[otel]'",
        ) from None
    return Traces(service, endpoint)


def _names(sockets: list[socket.socket]) -> list[str]:
    return [socket.gethostname(), *(one.getsockname()[0] for one in sockets)]


def _server(app: Any, args: Namespace, loops: Tasks) -> Server:
    import uvicorn

    from ailurus.server import Guarded, Server

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
    except OSError as error:
        # ssl.SSLError is one.
        raise CommandError(
            CONFIGURATION,
            f"cannot use {args.tls_cert} with {args.tls_key}: {error.strerror or error}",
            field="--tls-cert",
            remedy="give a certificate chain and its key in PEM",
        ) from None
    return Server(config, ending=app.close, loops=loops)


def _say(
    args: Namespace, out: Output, place: Place, sockets: list[socket.socket], public: str
) -> None:
    for one in sockets:
        out.line(f"listening on {listen.url_of(args, one)}")
    out.line(
        f"console: {public or listen.url_of(args, sockets[0])}/console/ "
        f"(sign in with a token, such as the one in {place.admin_token})"
    )
