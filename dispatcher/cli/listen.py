"""Where `dispatcher serve` listens: an address of its own, or sockets that it was handed."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from argparse import Namespace

from ailurus import systemd
from dispatcher.cli.exits import UNAVAILABLE, USAGE, CommandError

BACKLOG = 2048


def listeners(args: Namespace) -> list[socket.socket]:
    """The sockets to serve. Those inherited, from systemd or from our former self, come before
    --listen. Raises CommandError for an address that others can reach without TLS."""
    if bool(args.tls_cert) != bool(args.tls_key):
        raise CommandError(
            USAGE, "one of certificate and key is missing", field="--tls-cert, --tls-key"
        )
    given = systemd.inherited(os.environ)
    for one in given:
        _check_exposure(args, one.getsockname()[0])
        one.listen(BACKLOG)
    if given:
        return given
    host, port = _address(args.listen)
    _check_exposure(args, host)
    return [_bound(host, port, shared=args.share_port)]


def url_of(args: Namespace, listener: socket.socket) -> str:
    """What a client on this host would call the listener."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
    scheme = "https" if args.tls_cert else "http"
    return f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}"


def restart(sockets: list[socket.socket]) -> None:
    """Become the program that is installed now, in this process, which keeps its sockets: who
    connects meanwhile waits to be accepted."""
    sys.stdout.flush()
    systemd.hand_over(sockets, os.environ)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise CommandError(
            USAGE, f"{text!r} is not ADDRESS:PORT", field="--listen", remedy="127.0.0.1:8080"
        )
    return host.strip("[]"), int(port)


def _check_exposure(args: Namespace, host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not (loopback or args.tls_cert or args.serve_everybody_without_tls):
        raise CommandError(
            USAGE,
            f"{host} can be reached by others, and without TLS they can read tokens on the way",
            field="--listen",
            remedy="give --tls-cert and --tls-key, listen on 127.0.0.1, or, where something in front "
            "does TLS, --serve-everybody-without-tls",
        )


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CommandError(
            UNAVAILABLE,
            f"cannot listen on {host}:{port}: {error.strerror}",
            remedy="choose another port",
        ) from None
    # From here on clients may connect: they are answered once we run.
    listener.listen(BACKLOG)
    return listener
