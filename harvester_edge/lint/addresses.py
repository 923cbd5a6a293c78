"""Addresses and files that a site names: whether they can be what they are for."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ailurus.paths import expanded
from ailurus.protocol.shown import shown
from harvester_edge.lint.document import At, Fault, Tree
from harvester_edge.owned import token_remedy
from harvester_edge.site import Site


def addresses(site: Site, tree: Tree) -> Iterator[Fault]:
    """Who asks and who is asked."""
    named: list[tuple[At, str]] = [(("dispatcher", "url"), site.dispatcher.url)]
    if site.dispatcher.pilot_url:
        named.append((("dispatcher", "pilot_url"), site.dispatcher.pilot_url))
    for at, url in named:
        if (wrong := _wrong(url)) is not None:
            yield tree.fault(at, *wrong)
        elif url.startswith("http://") and not loopback(url):
            message = "over plain HTTP the token can be read on its way"
            yield tree.fault(at, "E025", message, f"https{url[4:]}")
    if site.relay is not None:
        if site.relay.url and (wrong := _wrong(site.relay.url)) is not None:
            yield tree.fault(("relay", "url"), *wrong)
        if not _listens(site.relay.listen):
            message = f"{site.relay.listen} is no address of a machine"
            yield tree.fault(("relay", "listen"), "E010", message, "0.0.0.0:8443")
    at, url = named[-1]
    if site.backend.kind != "local" and site.network == "direct" and loopback(url):
        message = f"{host(url)} on a node is the node itself"
        remedy = "set dispatcher.pilot_url to what nodes can reach"
        yield tree.fault(at, "W007", message, remedy)


def _wrong(url: str) -> tuple[str, str, str] | None:
    """Rule, message and remedy if nobody can be asked there."""
    remedy = "https://HOST:8443"
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    # `http://[`, a port that is none.
    except ValueError as error:
        return "E010", f"{shown(url)} is no address: {error}", remedy
    if parts.password is not None:
        remedy = "leave it out, and make it another: who reads the file has it"
        return "E028", f"the password of {parts.username} stands in it", remedy
    if parts.scheme not in ("http", "https"):
        return "E010", f"{shown(url)} is no address: {parts.scheme} is not spoken", remedy
    if not name or port == 0 or parts.username is not None or parts.query or parts.fragment:
        return (
            "E010",
            f"{shown(url)} is no address of a server alone",
            (f"{remedy}, without user, query and fragment"),
        )
    return None


def host(url: str) -> str | None:
    """The host of an address; None: it is none, as `http://[` is."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return None


def loopback(url: str) -> bool:
    """Whether it is this machine, whoever asks."""
    name = host(url) or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _listens(listen: str) -> bool:
    place, _, port = listen.rpartition(":")
    try:
        ipaddress.ip_address(place.strip("[]"))
    except ValueError:
        return False
    return 0 < int(port) < 65536


def files(site: Site, tree: Tree) -> Iterator[Fault]:
    """Files that the edge reads. Warnings: lint may run on another machine than the edge, and looks
    for none that the site has still to confirm."""
    token, panda, relay = site.dispatcher.token_file, site.dispatcher.panda, site.relay
    named: list[tuple[At, str | None, bool, str]] = [
        (("dispatcher", "token_file"), token, True, token_remedy("edge", site.site, token)),
        (("dispatcher", "ca"), site.dispatcher.ca, False, "name a file in PEM"),
        (("pilot", "file"), site.pilot.file, False, "`scripts/build-pilot` makes it"),
    ]
    if relay is not None and site.network != "direct":
        remedy = token_remedy("relay", site.site, relay.token_file)
        named.append((("relay", "token_file"), relay.token_file, True, remedy))
    # What nodes read lies on this machine too.
    if site.backend.kind == "local":
        named.append((("pilot", "program"), site.pilot.program, False, "where is the pilot?"))
        at: At = ("dispatcher", "panda", "pilot_token_file")
        named.append((at, panda.pilot_token_file if panda else None, True, "a pilot's token"))
    for at, path, secret, remedy in named:
        if path is None or "$" in expanded(path) or ".".join(map(str, at)) in site.confirm:
            continue
        if (wrong := unfit(expanded(path), remedy, secret=secret)) is not None:
            yield tree.fault(at, "W010", *wrong)


def unfit(path: str, remedy: str, *, secret: bool, others: int = 0o007) -> tuple[str, str] | None:
    """What is wrong with a file, and what would help. Of secrets it is what `edge.private`
    refuses. `others`: rights to a secret that nobody should have."""
    try:
        found = Path(path).stat(follow_symlinks=not secret)
    # ValueError: a NUL in it.
    except (OSError, ValueError) as error:
        return f"cannot find {path} on this machine: {getattr(error, 'strerror', error)}", remedy
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a symbolic link", "name the file itself"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is no file", remedy
    if secret and found.st_mode & others:
        return f"others can use {path}", f"chmod 600 {path}"
    if found.st_size == 0:
        return f"{path} is empty", remedy
    return None
