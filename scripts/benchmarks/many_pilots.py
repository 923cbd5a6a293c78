"""Thousands of pilots on one dispatcher: heartbeats at their rate, long polls that wait, a wake-up
a job."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ailurus.protocol.api import BY_NAME, PREFIX
from tests.rig import proc
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import Rig, null_job

HEARTBEAT_S = 60.0
WAITING = 2000
SECONDS = 20
WAKES = 200
LINES = 64  # kept connections over which the heartbeats come
EMPTY = "empty"  # a queue without a job, so that they wait


def run(rig: Rig, pilots: int) -> Iterator[Figure]:
    """Register them, let most beat and some wait; then give those that wait a job at a time."""
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: rig.worker(queue=EMPTY)[0].token, range(pilots)))
    yield figure("scale: pilots registered", pilots / (time.monotonic() - began), "/s")
    before = proc.use(rig.dispatcher.pid).rss_mb
    share, late, wakes, after = asyncio.run(_crowd(rig, tokens))
    n = len(tokens)
    yield figure(
        f"scale: {n:,} pilots, a heartbeat a minute, {WAITING:,} waiting",
        share,
        "% of a core",
        at_most=6,
        note=f"heartbeats' p99 {1000 * percentile(late, 0.99):.1f} ms",
    )
    yield figure("scale: memory of those that wait", after - before, "MB", at_most=250)
    yield figure("scale: wake-up of a waiting pilot, p50", 1000 * statistics.median(wakes), "ms")
    yield figure("scale: wake-up of a waiting pilot, p99", 1000 * percentile(wakes, 0.99), "ms",
                 at_most=100)  # fmt: skip
    lost = sum(row[0] for row in rig.rows("select count(*) from worker where ending = 'lost'"))
    yield figure("scale: leases lost", lost, at_most=0)


def _request(name: str, token: str, body: object) -> bytes:
    text = json.dumps(body).encode()
    head = f"POST {PREFIX}{BY_NAME[name].path} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(head.decode())
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def _crowd(rig: Rig, tokens: list[str]) -> tuple[float, list[float], list[float], float]:
    room = {"cores": 1, "memory_mb": 10**6, "disk_mb": 10**6}
    pid = rig.dispatcher.pid
    waiting = []
    for token in tokens[-WAITING:]:
        ask = {"request_id": token[-16:], "room": room, "wait_s": 60.0}
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        waiting.append((reader, writer, _request("acquire", token, ask)))
    lines = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(LINES)]
    took: list[float] = []

    async def beats(line: tuple[asyncio.StreamReader, asyncio.StreamWriter], nr: int) -> None:
        mine = tokens[nr : len(tokens) - WAITING : LINES]
        pause = HEARTBEAT_S / len(mine)
        due = time.perf_counter() + pause * nr / LINES
        end = time.perf_counter() + SECONDS
        at = 0
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            line[1].write(_request("beat", mine[at % len(mine)], {"room": room}))
            await _answer(line[0])
            took.append(time.perf_counter() - began)
            due += pause
            at += 1

    for _, writer, request in waiting:
        writer.write(request)
    await asyncio.sleep(2)
    rss = proc.use(pid).rss_mb
    began, before = time.monotonic(), proc.cpu_s(pid)
    await asyncio.gather(*(beats(line, nr) for nr, line in enumerate(lines)))
    share = 100 * (proc.cpu_s(pid) - before) / (time.monotonic() - began)
    wakes = await _wakes(rig, waiting)
    for _, writer in (*lines, *((reader, writer) for reader, writer, _ in waiting)):
        writer.close()
    return share, took, wakes, rss


async def _wakes(
    rig: Rig, waiting: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]]
) -> list[float]:
    """From the answer to a submission to the answer to whoever waited."""
    answers = {asyncio.create_task(_answer(reader)): None for reader, _, _ in waiting}
    wakes = []
    for nr in range(WAKES):
        await asyncio.to_thread(rig.client.submit, [null_job(nr, queue=EMPTY)])
        began = time.perf_counter()
        done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        if not done:
            raise RuntimeError("nobody was woken within 5 s")
        wakes.append(time.perf_counter() - began)
        for one in done:
            if b'"job_id"' not in one.result():
                raise RuntimeError("somebody who waited was answered without a job")
            del answers[one]
    for one in answers:
        one.cancel()
    await asyncio.gather(*answers, return_exceptions=True)
    return wakes
