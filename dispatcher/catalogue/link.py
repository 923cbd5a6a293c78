"""The dispatcher's end of the catalogue's process: it is started when it is first needed, and again
when it has ended. One that does not answer is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable

from dispatcher.catalogue import messages
from dispatcher.ports import CatalogueUnavailable

CALL_S = 300.0
"""The longest that one request may take."""
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_PREFIXES = ("RUCIO_", "X509_", "SSL_CERT_", "REQUESTS_CA_")
Ask = Callable[[messages.Request], Awaitable[messages.Answer]]


class Link:
    """Asks a plugin `kind` with the operator's options, in a process of its own."""

    def __init__(self, begin: messages.Begin, call_s: float = CALL_S) -> None:
        self._begin = begin
        self._call_s = call_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: messages.Request) -> messages.Answer:
        """The answer to a request. Raises CatalogueUnavailable, if the process has none."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._call_s):
                    return await self._asked(request)
            except TimeoutError:
                await self._kill()
                raise CatalogueUnavailable(
                    f"the catalogue has not answered for {self._call_s:.0f} s", "is it up?"
                ) from None
            except (OSError, ValueError, EOFError) as error:
                code = await self._kill()
                raise CatalogueUnavailable(
                    f"the process of the catalogue ended ({code}): {error}",
                    "its last words are on the dispatcher's stderr; it is started again",
                ) from None
            except BaseException:
                await self._kill()
                raise

    async def close(self) -> None:
        """End the process."""
        await self._kill()

    async def _asked(self, request: messages.Request) -> messages.Answer:
        if self._process is None or self._process.returncode is not None:
            await self._start()
        assert self._reader is not None  # noqa: S101 -- `_start` has set both
        assert self._writer is not None  # noqa: S101
        self._writer.write(messages.encode(request) + b"\n")
        await self._writer.drain()
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it said nothing")
        answer: messages.Answer = messages.decode_answer(line)
        return answer

    async def _start(self) -> None:
        await self._kill()
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            self._reader, self._writer = await asyncio.open_connection(
                sock=ours, limit=messages.LONGEST
            )
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dispatcher.catalogue.child",
                str(theirs.fileno()),
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
        self._writer.write(messages.encode(self._begin) + b"\n")

    async def _kill(self) -> int | None:
        process, writer = self._process, self._writer
        self._process = self._reader = self._writer = None
        if writer is not None:
            writer.close()
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


def _environment() -> dict[str, str]:
    """What its libraries need, and nothing of the dispatcher's own."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PREFIXES)
    }
