"""Kept connections to servers of http, whose waits call the check of who transfers."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from queue import Queue
from typing import Any, NamedTuple
from urllib.parse import unquote

import urllib3

from ailurus import __version__
from ailurus.protocol.url import Url
from ailurus.wire.connection import verifying
from ailurus.wire.watched import POOLS
from plugins.data.http_identity import show

HEADERS: Mapping[str, str] = {
    "User-Agent": f"ailurus/{__version__}",
    "Accept-Encoding": "identity",
}
"""Of each request."""
CONNECT_S = 10.0
STALL_S = 60.0
"""How long a server may say nothing."""
KEPT = 16
"""Connections to a server that wait for the next file."""
MOST = 10
"""Servers whose connections are at hand; urllib3 keeps those of as many."""
LOOK_S = 0.2
"""How often who waits for another to have asked looks whether its job stops."""
TURNS = 4
"""Connections that are kept to a server, where they take turns."""
_TURNS = {
    scheme: type(f"{kind.__name__}InTurn", (kind,), {"QueueCls": Queue})
    for scheme, kind in POOLS.items()
}
_Key = tuple[str, str, int | None]


class Servers:
    """The servers that files are moved from and to."""

    def __init__(
        self, proxy: str = "", ca: str = "", shown: str = "", *, taking_turns: bool = False
    ) -> None:
        """`shown`: an X.509 proxy (PEM) for those that ask for a certificate. `taking_turns`: a
        server is asked by the connection that has rested longest."""
        self._proxy = Url.parse(proxy) if proxy else None
        self._ca, self._shown, self._taking_turns = ca, shown, taking_turns
        self._at_hand: dict[_Key, urllib3.HTTPConnectionPool] = {}

    @cached_property
    def _plain(self) -> urllib3.PoolManager:
        return self._made(None)

    @cached_property
    def _secure(self) -> urllib3.PoolManager:
        """Made when the first https file is moved: reading the authorities takes 20 ms. Raises
        AilurusError for a proxy that is none."""
        context = verifying(self._ca)
        if self._shown:
            show(context, self._shown)
        return self._made(context)

    def _made(self, context: ssl.SSLContext | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": MOST,
            "maxsize": TURNS if self._taking_turns else KEPT,
            "retries": False,
            "timeout": urllib3.Timeout(connect=CONNECT_S, read=STALL_S),
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
        pool.pool_classes_by_scheme = _TURNS if self._taking_turns else POOLS
        return pool

    def request(
        self,
        method: str,
        url: Url,
        body: Any,
        headers: Mapping[str, str],
        silence_s: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The head of an answer, whose body is still to be read; a redirect is not followed.
        `silence_s`: how long the server may say nothing, if not `STALL_S`. Raises urllib3's
        HTTPError, AilurusError for a proxy that is none, and what the check raises."""
        how: dict[str, Any] = {"redirect": False, "preload_content": False}
        if silence_s is not None:
            how["timeout"] = urllib3.Timeout(connect=CONNECT_S, read=silence_s)
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


class Connections(NamedTuple):
    """Of one identity."""

    moving: Servers
    summing: Servers
    """By which sums are asked for, see decision 0310."""

    @classmethod
    def made(cls, proxy: str, ca: str, shown: str = "") -> Connections:
        """As `Servers` says."""
        return cls(Servers(proxy, ca, shown), Servers(proxy, ca, shown, taking_turns=True))

    def clear(self) -> None:
        """Close those that wait."""
        self.moving.clear()
        self.summing.clear()


class OneAtATime:
    """Who may ask a server something that nobody else asks it meanwhile. Any thread may call
    this."""

    def __init__(self) -> None:
        # By host and port.
        self._locks: dict[tuple[str, int | None], threading.Lock] = {}

    @contextmanager
    def at(self, url: Url, check: Callable[[], None]) -> Iterator[None]:
        """Wait until nobody else asks the server of `url`, and keep others waiting during the
        block. Raises what `check` raises meanwhile."""
        lock = self._locks.setdefault((url.host, url.port), threading.Lock())
        while not lock.acquire(timeout=LOOK_S):
            check()
        try:
            yield
        finally:
            lock.release()
