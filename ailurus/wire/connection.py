"""Connections whose requests go out in one piece.

The standard library sends the head of a request and its body each by itself: two packets, or two
records of TLS, for which the server wakes twice.
"""

from __future__ import annotations

from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

LARGEST = 64 * 1024  # bytes of a body that is copied behind its head


class _Http(HTTPConnection):
    _head: bytes | None = None  # of a request whose body is still to come; blank: head to come

    def request(self, method: str, url: str, body: Any = None, *more: Any, **options: Any) -> None:
        joins = isinstance(body, bytes) and 0 < len(body) <= LARGEST
        self._head = b"" if joins else None
        super().request(method, url, body, *more, **options)

    def send(self, data: Any) -> None:
        if self._head is None:
            super().send(data)
        elif not self._head:
            self._head = data
        else:
            head, self._head = self._head, None
            super().send(head + data)


class _Https(_Http, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


POOLS = {"http": _HttpPool, "https": _HttpsPool}
