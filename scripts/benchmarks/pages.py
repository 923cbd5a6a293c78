"""Open pages of the console, as many as asked for, in one process: what arrives, and when.

`python -m benchmarks.pages PORT TOKENFILE COUNT SECONDS` says `open` when all pages have their
snapshot, and at the end, as JSON, when the first ten of them saw each job enter each state, and all
bytes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.api import PREFIX

READERS = 10
TOPICS = "overview,jobs"


class Arrived(Struct):
    """What all pages together saw."""

    seen: list[tuple[int, str, float]] = []  # job, state, time.monotonic()
    bytes: int = 0
    closed: int = 0


async def page(port: int, token: str, arrived: Arrived, opened: asyncio.Semaphore, nr: int) -> None:
    """One open page."""
    async with opened:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET {PREFIX}/stream?topics={TOPICS} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(head.decode())
        await reader.readuntil(b"\n\n")
    try:
        while nr >= READERS and (data := await reader.read(1 << 16)):
            arrived.bytes += len(data)
        while line := await reader.readline():
            arrived.bytes += len(line)
            if line.startswith(b"data: ") and b'"changes"' in line:
                _note(arrived, line[6:])
        arrived.closed += 1
    finally:
        writer.close()


def _note(arrived: Arrived, data: bytes) -> None:
    now = time.monotonic()
    content: dict[str, Any] = msgspec.json.decode(data)
    arrived.seen += [(one["job_id"], one["state"], now) for one in content["changes"]]


async def main(port: int, token: str, count: int, seconds: float) -> Arrived:
    """Open all, say so, look for so long."""
    arrived, opened = Arrived(), asyncio.Semaphore(50)
    pages = [asyncio.create_task(page(port, token, arrived, opened, nr)) for nr in range(count)]
    await asyncio.sleep(0)
    for _ in range(50):  # all slots free: every page has had its turn
        await opened.acquire()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.sleep(seconds)
    for task in pages:
        task.cancel()
    await asyncio.gather(*pages, return_exceptions=True)
    return arrived


if __name__ == "__main__":
    answer = asyncio.run(
        main(
            int(sys.argv[1]),
            Path(sys.argv[2]).read_text(encoding="utf-8").strip(),
            int(sys.argv[3]),
            float(sys.argv[4]),
        )
    )
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
