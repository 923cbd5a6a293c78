"""All pilots of a large site come back at once after the dispatcher was killed (R10)."""

from __future__ import annotations

import asyncio
import random
import resource
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX
from ailurus.protocol.resources import Room
from ailurus.wire.retry import Patience, pauses
from tests.rig.figure import Figure, figure
from tests.rig.programs import QUEUE, Rig

ROOM = Room(cores=1, memory_mb=1000, disk_mb=1000)
PATIENCE = Patience(first_s=0.2, longest_s=15.0)  # a pilot's (pilot/upstream/link.py)
AWAY_S = 2.0  # how long nobody answers
LONGEST_S = 120.0
encode = msgspec.json.Encoder().encode


def run(args: Namespace) -> Iterator[Figure]:
    """Registers `--pilots`, kills the dispatcher under them, and waits until each has been
    heard."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Rig(heartbeat_s=60.0) as rig:
        pilots = args.pilots or 10_000
        back, tries = asyncio.run(_herd(rig, pilots, args.seed))
        heard = len(rig.workers())
        name = f"herd: {pilots} pilots back after kill -9"
        yield figure(f"{name}, the last", max(back), "s", at_most=60.0, seed=args.seed)
        yield figure(f"{name}, half of them", statistics.median(back), "s", seed=args.seed)
        yield figure("herd: pilots that were lost", pilots - len(back), at_most=0)
        yield figure("herd: workers that the dispatcher knows", min(heard, 1000), seed=args.seed)
        spread = statistics.pstdev(back)
        yield figure("herd: spread of their coming", spread, "s", at_least=0.05, seed=args.seed,
                     note=f"{sum(tries)} tries")  # fmt: skip


async def _herd(rig: Rig, pilots: int, seed: int) -> tuple[list[float], list[int]]:
    """When each pilot was heard again, in seconds after the start, and its tries."""
    token = rig.pilot_token.read_text()
    gate = asyncio.Semaphore(200)

    async def registered(nr: int) -> str:
        ask = m.Register(instance=f"herd-{nr}", queue=QUEUE, total=ROOM)
        async with gate:
            _, body = await _asked(rig.port, "register", token, ask)
        return msgspec.json.decode(body, type=m.Registered).token

    tokens = await asyncio.gather(*(registered(nr) for nr in range(pilots)))
    rig.dispatcher.kill()
    away = time.monotonic()
    fleet = [asyncio.create_task(_pilot(rig.port, one, seed + nr)) for nr, one in enumerate(tokens)]
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(rig.serve)
    began = time.monotonic()
    done = await asyncio.wait_for(asyncio.gather(*fleet), LONGEST_S)
    assert began - away >= AWAY_S  # noqa: S101 -- there was nobody for a while
    return [max(0.0, at - began) for at, _ in done], [tries for _, tries in done]


async def _pilot(port: int, token: str, seed: int) -> tuple[float, int]:
    """Beat until somebody answers, with a pilot's pauses. When that was, and the tries."""
    ask = m.Beat(room=ROOM)
    for tries, pause in enumerate(pauses(PATIENCE, random.Random(seed)), 1):
        try:
            status, _ = await _asked(port, "beat", token, ask)
            if status == 200:
                return time.monotonic(), tries
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(pause)
    raise AssertionError("pauses() never ends")


async def _asked(port: int, name: str, token: str, ask: msgspec.Struct) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    body = encode(ask)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST {PREFIX}{BY_NAME[name].path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.read()
        if not answer:
            raise ConnectionResetError("no answer")
        status, _, rest = answer.partition(b"\r\n\r\n")
        return int(status[9:12]), rest
    finally:
        writer.close()
