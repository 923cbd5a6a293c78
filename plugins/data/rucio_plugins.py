"""The site's plugins that move files for Rucio, by the places that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import msgspec
from msgspec import Struct

import plugins
from ailurus.protocol.url import Url
from pilot.blame import making
from pilot.ports import Mover, Transfer


class Replica(Struct, frozen=True):
    """A place where a file is, or may go."""

    rse: str
    url: str


class Plugin(NamedTuple):
    """A plugin by its name; with a server of http, that a transfer may speak to."""

    name: str
    server: str = ""
    own: bool = False
    """Whether it is the site's, which gets the site's token."""

    @property
    def moves(self) -> bool:
        """Whether it is a mover, which takes batches; else a transfer, which takes single files."""
        return self.name not in plugins.TABLE["data"]


class Reach(Protocol):
    """What a site says of its storage, as the options of the mover have it."""

    @property
    def rse(self) -> str: ...
    @property
    def plugins(self) -> Mapping[str, str]: ...
    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def roots(self) -> tuple[str, ...]: ...
    @property
    def http_allow(self) -> tuple[str, ...]: ...
    @property
    def http_proxy(self) -> str: ...
    @property
    def ca(self) -> str: ...
    @property
    def credentials(self) -> Mapping[str, str]: ...


class Plugins:
    """Makes each when it is first needed."""

    def __init__(self, site: Reach) -> None:
        self._site = site
        self._made: dict[Plugin, Mover | Transfer] = {}

    def of(self, place: Replica) -> Plugin:
        """The plugin that moves files there."""
        scheme, _, rest = place.url.partition("://")
        name = self._site.plugins.get(scheme) or plugins.MOVED_BY.get(scheme, scheme)
        if name not in plugins.TABLE["data"] or scheme == "file":
            return Plugin(name)
        return Plugin(name, f"{scheme}://{rest.partition('/')[0]}/", place.rse == self._site.rse)

    def made(self, plugin: Plugin) -> Any:
        """The plugin itself. Raises JobError if it cannot be made."""
        if plugin not in self._made:
            with making(plugin.name):
                self._made[plugin] = self._make(plugin)
        return self._made[plugin]

    def _make(self, plugin: Plugin) -> Mover | Transfer:
        site = self._site
        given = site.options.get(plugin.name, {})
        made: Mover | Transfer
        if plugin.moves:
            kind = plugins.load("mover", plugin.name)
            given = plugins.with_credentials(kind.Options, given, site.credentials)
            made = kind(msgspec.convert(given, kind.Options))
        elif plugin.server:
            # Rucio has named that server; redirects lead where the site allows.
            kind = plugins.load("data", plugin.name)
            own = {"token_for": [plugin.server] if plugin.own else [], **given}
            if site.credentials.get("token_file") or site.credentials.get("proxy"):
                # To the server that Rucio has named, whosever it is.
                own |= {"token_for": [plugin.server]}
            made = kind(
                http_allow=(plugin.server, *site.http_allow),
                http_proxy=site.http_proxy,
                ca=site.ca,
                options=plugins.with_credentials(kind.Options, own, site.credentials),
            )
        else:
            made = plugins.load("data", plugin.name)(roots=site.roots)
        return made


def local_url(pfn: str) -> Url:
    """The URL of a file system's path: Rucio writes it with host and port, and as it is."""
    url = Url.parse(pfn)
    return Url.of_path(unquote(url.path)) if url.scheme == "file" else url
