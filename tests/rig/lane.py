"""A way to a server on loopback that has a pace, so that a transfer has a middle, in which
something happens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

PIECE = 1 << 16


class Lane:
    """Carries connections to the port of a URL, in a thread of its own."""

    def __init__(self, url: str, bytes_s: float) -> None:
        """`bytes_s`: all connections together, both ways."""
        self._to = urlsplit(url).port
        self._bytes_s = bytes_s
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)
        self._after = 0
        self._action: Callable[[], object] = lambda: None
        self._acting: threading.Thread | None = None
        self.port = 0
        self.passed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def url(self, url: str) -> str:
        """The same URL by this way."""
        return url.replace(f":{self._to}/", f":{self.port}/")

    def after(self, number: int, action: Callable[[], object]) -> None:
        """Do something, once, when so many bytes more have passed."""
        self._after, self._action, self._acting = self.passed + number, action, None

    def acted(self) -> None:
        """Wait until that is done. Raises AssertionError if it never began."""
        assert self._acting is not None, f"only {self.passed} bytes passed"
        self._acting.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=PIECE)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _client(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to, limit=PIECE)
            with contextlib.closing(back):
                ways = [
                    asyncio.ensure_future(self._pump(*way))
                    for way in ((reader, back), (there, writer))
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()

    async def _pump(self, source: StreamReader, target: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE):
                target.write(piece)
                await target.drain()
                self.passed += len(piece)
                if self._acting is None and self.passed >= self._after > 0:
                    self._acting = threading.Thread(target=self._action, daemon=True)
                    self._acting.start()
                await asyncio.sleep(len(piece) / self._bytes_s)
