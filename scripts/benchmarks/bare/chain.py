"""The bare chain: acquire over HTTP, spawn, report over HTTP, both durable.

The server is httptools and uvloop with one writer thread and nothing else: `python -m
benchmarks.bare.chain FILE JOBS` says its port and serves. The clients below are its pilots.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import select
import sys
import time
from typing import cast

import httptools
import uvloop

from benchmarks.bare.store import Batch, beat, make, take


class Http(asyncio.Protocol):
    """One kept connection: POST /acquire, POST /report/ID."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        if self._url == b"/acquire":
            done = self._batch.write(take)
        else:
            job_id = int(self._url.rpartition(b"/")[2])
            done = self._batch.write(lambda connection: beat(connection, job_id, 2))
        done.add_done_callback(lambda answer: self._answer(answer.result()))

    def _answer(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


async def serve(path: str, jobs: int) -> None:
    """Serve until killed."""
    batch = Batch(make(path, jobs, b'{"command":"true"}'))
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Http(batch), "127.0.0.1", 0)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


NULL = ["/bin/true"]


def one_by_one(port: int, jobs: int) -> list[float]:
    """Jobs one after the other through one kept connection; seconds of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took = []
    for _ in range(jobs):
        began = time.perf_counter()
        job_id = _acquire(connection)
        os.waitpid(os.posix_spawn(NULL[0], NULL, {}), 0)
        _report(connection, job_id)
        took.append(time.perf_counter() - began)
    connection.close()
    return took


def packed(port: int, jobs: int, slots: int) -> float:
    """Jobs through one single-threaded pilot with so many slots and one connection; seconds in
    all."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    poll = select.epoll()
    running: dict[int, tuple[int, int]] = {}
    started = 0
    began = time.perf_counter()
    while running or started < jobs:
        while len(running) < slots and started < jobs:
            job_id = _acquire(connection)
            pid = os.posix_spawn(NULL[0], NULL, {})
            held = os.pidfd_open(pid)
            running[held] = pid, job_id
            poll.register(held, select.EPOLLIN)
            started += 1
        for held, _ in poll.poll():
            pid, job_id = running.pop(held)
            os.waitpid(pid, 0)
            poll.unregister(held)
            os.close(held)
            _report(connection, job_id)
    connection.close()
    return time.perf_counter() - began


def _acquire(connection: http.client.HTTPConnection) -> int:
    connection.request("POST", "/acquire")
    return int(connection.getresponse().read().split(b":", 1)[1].split(b",", 1)[0])


def _report(connection: http.client.HTTPConnection, job_id: int) -> None:
    connection.request("POST", f"/report/{job_id}")
    connection.getresponse().read()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
