"""A site's storage: URLs, options of the plugins that move files, credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import plugins
from ailurus.paths import CREDENTIAL, directory_url, expanded, secret_files
from ailurus.protocol.did import SCHEME as RUCIO
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from ailurus.protocol.url import Url
from ailurus.regular import open_regular
from harvester_edge.fields import Options
from harvester_edge.lint.addresses import unfit
from harvester_edge.lint.document import At, Fault, Tree, nearest
from harvester_edge.lint.options import unlike
from harvester_edge.lint.places import beneath
from harvester_edge.site import Site
from harvester_edge.site_storage import Protocols

MOST_BYTES = 1 << 20
"""Of a file of settings that are looked at."""
RSE = re.compile(r"[A-Za-z0-9_-]{0,255}")
"""Rucio's rule, or blank."""
PRINTED = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")


def plugin_options(site: Site) -> list[tuple[At, Options]]:
    """What the site says to each plugin that moves files, whose name comes last."""
    storage = site.storage
    parts: list[tuple[At, Options]] = [
        (("storage", name), getattr(storage, name)) for name in plugins.NAMED_OPTIONS
    ]
    return parts + [(("storage", "options", name), part) for name, part in storage.options.items()]


def credential_files(site: Site) -> Iterator[tuple[At, str]]:
    """The files of the site's credentials for storage."""
    yield from ((("credentials", name), path) for name, path in site.credentials.items())
    for at, options in plugin_options(site):
        yield from (((*at, name), path) for name, path in secret_files(options).items())


def rucio_settings(site: Site) -> Iterator[tuple[At, str]]:
    """A `rucio.cfg`, which may be everybody's, in CVMFS say, unless a password stands in it."""
    config = site.storage.rucio.get("config")
    if isinstance(config, str) and config and not config.startswith(CREDENTIAL):
        yield ("storage", "rucio", "config"), config


def storage_urls(site: Site, tree: Tree) -> Iterator[Fault]:
    storage = site.storage
    named: list[tuple[At, str]] = [
        (("storage", "http_allow", nr), one) for nr, one in enumerate(storage.http_allow)
    ]
    named.append((("storage", "http_proxy"), storage.http_proxy or ""))
    named += [(("storage", "allow", nr), one) for nr, one in enumerate(storage.allow)]
    outputs: list[tuple[At, str]] = [
        (("storage", key), directory_url(getattr(storage, key)))
        for key in ("default_output", "alternative_output")
    ]
    read: dict[At, Url] = {}
    for at, text in (*named, *outputs):
        if not text:
            continue
        try:
            read[at] = url = Url.parse(text)
        except AilurusError as error:
            yield tree.fault(at, "E010", error.message, error.remedy)
            return
        if url.climbs or (url.userinfo is not None and at[-1] != "http_proxy"):
            message = f"{url} has a user, or names `..`: no job may use such a URL"
            yield tree.fault(at, "E010", message, "write scheme://host/path, credentials by file")
    for at, text in outputs:
        if text:
            yield from _place(site, tree, at, read)


def _place(site: Site, tree: Tree, at: At, read: Mapping[At, Url]) -> Iterator[Fault]:
    """Whether outputs may go where they go, as jobs' own."""
    url = read[at]
    if url.scheme == "file":
        path = os.fsdecode(b"/" + b"/".join(url.segments))
        if not any(beneath(path, root) for root in site.storage.roots):
            yield tree.fault(at, "E026", f"{url} is beneath none of storage.roots", "name its root")
        return
    if url.scheme == RUCIO:
        message = f"{url} is an identifier, and no directory"
        yield tree.fault(at, "E026", message, "leave it to outputs with a `scope`")
        return
    web = url.web.scheme in {"http", "https"}
    if not web and url.scheme not in site.storage.plugins and not _serves(url.scheme):
        # That nothing moves it is told for itself.
        return
    moved = not web or site.storage.plugins.get(url.scheme, "http") != "http"
    keys = (["http_allow"] if web else []) + (["allow"] if moved else [])
    # Movers take the site's word for where what is left over goes.
    trusted = moved and at[-1] == "alternative_output"
    if not trusted and not any(
        url.web.within(one.web) for of, one in read.items() if of[1] in keys
    ):
        message = f"{url} is not allowed by storage.{keys[0]}"
        yield tree.fault(at, "E026", message, "allow it")


def storage_options(site: Site, tree: Tree) -> Iterator[Fault]:
    """What the site says to the plugins that move files."""
    # A pilot in a place of its own may have plugins that are not here.
    rule = "W009" if site.pilot.program else "E020"
    for at, given in plugin_options(site):
        if given:
            yield from _options(site, tree, at, given, rule)
    for activity in Protocols.__struct_fields__:
        for nr, scheme in enumerate(getattr(site.storage.protocols, activity)):
            # A name in `plugins` that is wrong is told there.
            if scheme not in site.storage.plugins and not _serves(scheme):
                at = ("storage", "protocols", activity, nr)
                message = f"there is no data plugin for {scheme}://"
                yield tree.fault(at, rule, message, "name one in `storage.plugins`")
    storage = site.storage
    if not RSE.fullmatch(storage.rse):
        message = f"{storage.rse!r} is no name of an RSE"
        yield tree.fault(("storage", "rse"), "E020", message, "letters, digits, _ and -")
    asks_rucio = (storage.rse or storage.rucio) and "rucio" not in storage.plugins
    if asks_rucio and not storage.rucio.get("config"):
        at = ("storage", "rucio", "config")
        message = "where Rucio is, and who the pilot is there, is not said"
        yield tree.fault(at, "E024", message, "`rucio: {config: /etc/ailurus/rucio.cfg}`")


def _options(site: Site, tree: Tree, at: At, given: Options, rule: str) -> Iterator[Fault]:
    name = str(at[-1])
    try:
        kind = _mover(name)
    except ImportError as error:
        message = f"{name} cannot be loaded here, so its options are not looked at: {error}"
        yield tree.fault(at, "W009", message, "lint where the pilot is installed")
        return
    if kind is None:
        yield tree.fault(at, rule, f"there is no data plugin {name!r}", nearest(name, _names()))
        return
    options = getattr(kind, "Options", None)
    if options is None:
        return
    known = [one.name for one in msgspec.structs.fields(options)]
    for key, value in given.items():
        if key not in known:
            message = f"{name} has no such option"
            yield tree.fault((*at, key), "E020", message, nearest(key, known))
        elif wrong := _wrong(key, value, options, site):
            yield tree.fault((*at, key), "E020", *wrong)


def _wrong(key: str, value: Any, options: Any, site: Site) -> tuple[str, str] | None:
    """What is wrong with the value of an option that there is, and what would help."""
    if isinstance(value, str) and value.startswith(CREDENTIAL):
        named = value.removeprefix(CREDENTIAL)
        if named not in site.credentials:
            known = nearest(named, site.credentials) if site.credentials else "credentials: {…}"
            return f"the site has no credential {named!r}", known
        return None
    if isinstance(value, str) and not PRINTED.fullmatch(value):
        return "it has a character that no path and no URL has", "write it anew"
    if key == "endpoint" and isinstance(value, str) and value:
        return _no_endpoint(value)
    if key == "stall" and isinstance(value, str):
        try:
            duration_s(value)
        except AilurusError as error:
            return error.message, "`stall: 60s`"
    return unlike(value, key, options)


def _no_endpoint(text: str) -> tuple[str, str] | None:
    """What is wrong with the address of a gateway, and what would help."""
    like = "https://HOST or https://HOST:PORT"
    try:
        url = Url.parse(text)
    except AilurusError as error:
        return error.message, like
    more = url.path.strip("/") or url.query or url.fragment or url.userinfo
    if url.scheme not in {"http", "https"} or not url.host or more:
        return f"{url} is not the address of a server alone", like
    return None


def _names() -> list[str]:
    return [*plugins.names("mover"), *plugins.names("data")]


def _mover(scheme: str) -> Any:
    """The class of a data or mover plugin, by its name or by a scheme that it serves; None: there
    is none. Raises ImportError."""
    name = plugins.MOVED_BY.get(scheme, scheme)
    kind = next((kind for kind in _KINDS if name in plugins.names(kind)), None)
    return None if kind is None else plugins.load(kind, name)


def _serves(scheme: str) -> bool:
    """Whether a plugin moves files of such URLs; none is imported."""
    name = plugins.MOVED_BY.get(scheme, scheme)
    return any(name in plugins.names(kind) for kind in _KINDS)


_KINDS = ("mover", "data")


def storage_secrets(site: Site, tree: Tree) -> Iterator[Fault]:
    """Files of credentials. Warnings: lint may run on another machine than the edge or the
    pilots."""
    for at, path in (*credential_files(site), *rucio_settings(site)):
        where = expanded(path)
        if "$" in where or not where.startswith("/") or ".".join(map(str, at)) in site.confirm:
            continue
        public = at[-1] == "config" and not _holds_password(Path(where))
        remedy = (
            "a file that somebody renews" if at[0] == "credentials" else "name it as nodes see it"
        )
        if (wrong := unfit(where, remedy, secret=not public, others=0o077)) is not None:
            yield tree.fault(at, "W010", *wrong)


def _holds_password(config: Path) -> bool:
    try:
        # It may be a link, but nothing that one waits at, or that has no end.
        with os.fdopen(open_regular(config.resolve()), "rb") as file:
            text = file.read(MOST_BYTES)
    except (OSError, ValueError, RuntimeError):
        return False
    return bool(re.search(rb"^\s*password\s*[=:]\s*\S", text, re.MULTILINE))
