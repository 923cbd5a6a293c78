"""The door through a shared directory: what `ailurus.wire.spool` asks is answered here."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.tasks import Tasks
from ailurus.wire.spool import FANS, SpoolReply, SpoolRequest, put
from harvester_edge.relay.door import BY_PATH, LONGEST, Door

# Between two looks at the sixteen directories.
LOOK_S, IDLE_LOOK_S = 0.5, 2.0
IDLE_AFTER_S = 30.0
# An answer that nobody took, and a draft that nobody finished, go after so long.
LEFT_S = 3600.0
SWEEP_S = 300.0
# After a file that could not be read, answered or removed.
AGAIN_S = 30.0
_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(SpoolRequest).decode


class Spool:
    """A directory of one user: what lies in it is that user's, as with a token file."""

    def __init__(self, directory: Path, door: Door, log: Log, loops: Tasks) -> None:
        self.directory, self._door, self._log, self._loops = directory, door, log, loops
        self._busy: set[Path] = set()
        # What could not be answered, and when to look again.
        self._later: dict[Path, float] = {}
        self._make()

    def _make(self) -> None:
        for way in ("answer", "ask"):
            for fan in FANS:
                (self.directory / way / fan).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)

    async def serve(self, loop: Loop) -> None:
        """Look for requests, and answer each in a task of its own: some wait for a job."""
        last_request = swept = time.monotonic()
        while True:
            loop.turned()
            found = await asyncio.to_thread(self._look)
            now = time.monotonic()
            for path in found:
                self._busy.add(path)
                self._loops.once("answers", self._answer(path))
            last_request = now if found or self._busy else last_request
            if now - swept > SWEEP_S:
                swept = now
                await asyncio.to_thread(self._sweep)
            await asyncio.sleep(LOOK_S if now - last_request < IDLE_AFTER_S else IDLE_LOOK_S)

    def _look(self) -> list[Path]:
        try:
            return [path for fan in FANS for path in self._requests(self.directory / "ask" / fan)]
        # Somebody has tidied up.
        except FileNotFoundError:
            self._make()
            return []

    def _requests(self, directory: Path) -> Iterator[Path]:
        """The requests there: files that are whole. Nothing else of what may lie there is opened, a
        FIFO least of all."""
        with os.scandir(directory) as entries:
            for entry in entries:
                path = Path(entry.path)
                if (
                    not entry.name.startswith(".")
                    and path not in self._busy
                    and self._later.get(path, 0.0) < time.monotonic()
                    and entry.is_file(follow_symlinks=False)
                ):
                    yield path

    async def _answer(self, path: Path) -> None:
        try:
            request = await asyncio.to_thread(_read, path)
            if request is not None and request.until > time.time():
                status, body = await self._door.answer(
                    BY_PATH[request.path], request.token, request.body.encode()
                )
                reply = _encode(SpoolReply(status, body.decode()))
                await asyncio.to_thread(
                    put, self.directory / "answer" / path.parent.name / path.name, reply
                )
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            self._log.warning("spool_failed", path=repr(str(path)), what=error.strerror)
            self._later[path] = time.monotonic() + AGAIN_S
        finally:
            self._busy.discard(path)

    def _sweep(self) -> None:
        self._later = {
            path: at for path, at in self._later.items() if at > time.monotonic() - SWEEP_S
        }
        old = time.time() - LEFT_S
        for path in self.directory.glob("*/*/*"):
            try:
                if path.lstat().st_mtime < old:
                    path.unlink()
            # It is gone, or none of ours: a directory, say.
            except OSError:
                continue


def _read(path: Path) -> SpoolRequest | None:
    """A request; None: what lies there is none."""
    if path.stat().st_size > 2 * LONGEST:
        return None
    try:
        request = _request(path.read_bytes())
    except msgspec.MsgspecError:
        return None
    return request if request.path in BY_PATH else None
