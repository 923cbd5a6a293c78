"""Kept connections to servers of http, whose waits call the check of who transfers."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import urllib3

from ailurus import __version__
from ailurus.protocol.url import Url
from ailurus.wire.connection import verifying
from ailurus.wire.watched import POOLS

HEADERS: Mapping[str, str] = {
    "User-Agent": f"ailurus/{__version__}",
    "Accept-Encoding": "identity",
}
"""Of each request."""
STALL_S = 60.0
"""How long a server may say nothing."""
KEPT = 16
"""Connections to a server that wait for the next file."""
MOST = 10
"""Servers whose connections are at hand; urllib3 keeps those of as many."""
_Key = tuple[str, str, int | None]


class Servers:
    """The servers that files are moved from and to."""

    def __init__(self, proxy: str = "", ca: str = "") -> None:
        self._proxy = Url.parse(proxy) if proxy else None
        self._ca = ca
        self._at_hand: dict[_Key, urllib3.HTTPConnectionPool] = {}

    @cached_property
    def _plain(self) -> urllib3.PoolManager:
        return self._made(None)

    @cached_property
    def _secure(self) -> urllib3.PoolManager:
        """Made when the first https file is moved: reading the authorities takes 20 ms."""
        return self._made(verifying(self._ca))

    def _made(self, context: ssl.SSLContext | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": MOST,
            "maxsize": KEPT,
            "retries": False,
            "timeout": urllib3.Timeout(connect=10.0, read=STALL_S),
        }
        if context is not None:
            options["ssl_context"] = context
        pool: urllib3.PoolManager
        if self._proxy is None:
            pool = urllib3.PoolManager(**options)
        else:
            user = self._proxy.userinfo
            login = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else {}
            pool = urllib3.ProxyManager(str(self._proxy), proxy_headers=login, **options)
        pool.pool_classes_by_scheme = POOLS
        return pool

    def request(
        self, method: str, url: Url, body: Any, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """The head of an answer, whose body is still to be read; a redirect is not followed. Raises
        urllib3's HTTPError, and what the check raises."""
        how: dict[str, Any] = {"redirect": False, "preload_content": False}
        pool = self._secure if url.scheme == "https" else self._plain
        if self._proxy is not None:
            return pool.request(method, url.sent, body=body, headers=headers, **how)
        # A tenth of what a small file costs is to find its server by a text.
        target = url.path or "/"
        if url.query is not None:
            target += f"?{url.query}"
        server = self._at(pool, url)
        return server.urlopen(method, target, body=body, headers=headers, **how)

    def _at(self, pool: urllib3.PoolManager, url: Url) -> urllib3.HTTPConnectionPool:
        key = url.scheme, url.host, url.port
        if (found := self._at_hand.get(key)) is not None:
            return found
        if len(self._at_hand) >= MOST:
            self._at_hand.clear()
        host = f"[{url.host}]" if ":" in url.host else url.host
        found = self._at_hand[key] = pool.connection_from_host(host, url.port, url.scheme)
        return found

    def clear(self) -> None:
        """Close the connections that wait."""
        self._at_hand.clear()
        for made in ("_plain", "_secure"):
            if made in vars(self):
                vars(self)[made].clear()
