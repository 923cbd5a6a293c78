"""A relay with 10,000 pilots, each with a job: what their heartbeats cost it, each on a new
connection."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from tests.rig.figure import Figure, figure, percentile
from tests.rig.ports import free_port
from tests.rig.programs import BIN, QUEUE, SITE, Rig, null_job
from tests.rig.waiting import until

PILOTS = 10_000
SECONDS = 60.0
BEAT_S = 60.0  # each pilot's: ours tells them 67 s when there are so many
AT_ONCE = 100  # of registrations and acquires, before it is measured
ROOM = Room(cores=1, memory_mb=1000, disk_mb=1000)
A = TypeVar("A", bound=msgspec.Struct)
B = TypeVar("B")


class Pilots:
    """Simulated ones, in this process."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cafile=str(certificate))
        self.delays: list[float] = []

    async def ask(self, name: str, token: str, ask: msgspec.Struct, answer: type[A]) -> A:
        """One request on a connection of its own, as of a pilot that speaks once a minute."""
        body = msgspec.json.encode(ask)
        head = (
            f"POST {PREFIX}{BY_NAME[name].path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._tls, server_hostname="127.0.0.1"
        )
        try:
            writer.write(head.encode() + body)
            answered = await reader.read()
        finally:
            writer.close()
        status, _, content = answered.partition(b"\r\n\r\n")
        if b" 200 " not in status[:15]:
            raise RuntimeError(f"{name}: {answered[:300]!r}")
        return msgspec.json.decode(content, type=answer)

    async def begin(self, token: str) -> tuple[str, m.Assignment]:
        """Register and get a job; the pilot's token and its job."""
        who = m.Register(instance=secrets.token_hex(8), queue=QUEUE, site=SITE, total=ROOM)
        registered = await self.ask("register", token, who, m.Registered)
        while True:
            ask = m.Acquire(request_id="one", room=ROOM, wait_s=20)
            got = await self.ask("acquire", registered.token, ask, m.Acquired)
            if got.jobs:
                return registered.token, got.jobs[0]

    async def beat(self, token: str, job: m.Assignment) -> None:
        update = m.Update(
            job_id=job.job_id, attempt_nr=job.attempt_nr, state=JobState.RUNNING, since=1.0,
            usage=m.Usage(cpu_s=time.monotonic()),
        )  # fmt: skip
        began = time.monotonic()
        await self.ask("beat", token, m.Beat(jobs=(update,), room=Room(cores=0)), m.BeatAnswer)
        self.delays.append(time.monotonic() - began)


def run(args: Namespace) -> Iterator[Figure]:
    """Set up, then measure a minute."""
    port = free_port()
    part: dict[str, object] = {
        "prefetch": 0,
        "token_file": "/nowhere",
        "url": f"https://127.0.0.1:{port}",
        "listen": f"127.0.0.1:{port}",
    }
    with Rig(heartbeat_s=60, network="relay", relay=part) as rig:
        part["token_file"] = str(rig.token("relay", f"ailurus.relay:{SITE}"))
        rig.through(rig.url)
        argv = [BIN / "harvester-edge", "relay", "--config", rig.site_file, "--heartbeat", "60s"]
        relay = rig.start(argv, "relay")
        certificate = rig.directory / "state/relay/certificate.pem"
        until(certificate.exists, 20, f"the relay has a key (see {relay.log})")
        until(lambda: b"relay_started" in relay.log.read_bytes(), 20, "the relay starts")
        rig.client.submit([null_job(nr) for nr in range(PILOTS)])
        pilots = Pilots(port, certificate)
        began = time.monotonic()
        token = rig.pilot_token.read_text().strip()
        all_of = asyncio.run(_bounded(PILOTS, lambda: pilots.begin(token)))
        set_up = time.monotonic() - began
        before, upstream, began = relay.use(), rig.dispatcher.use(), time.monotonic()
        asyncio.run(_beating(pilots, all_of))
        took = time.monotonic() - began
        after, dispatcher = relay.use(), rig.dispatcher.use()
    share = 100 * (after.cpu_s - before.cpu_s) / took
    rate = len(pilots.delays) / took
    yield figure(
        "relay: 10,000 pilots, a heartbeat a minute each",
        share,
        "% of a core",
        at_most=25,
        note=f"{rate:.0f}/s, each on a new TLS connection; set up in {set_up:.0f} s",
    )
    yield figure(
        "relay: its memory then", after.rss_mb, "MB", note=f"{after.descriptors} descriptors"
    )
    yield figure("relay: a heartbeat, p99", 1000 * percentile(pilots.delays, 0.99), "ms")
    spent = 100 * (dispatcher.cpu_s - upstream.cpu_s) / took
    yield figure("relay: what they cost the dispatcher", spent, "% of a core")


async def _bounded(count: int, make: Callable[[], Coroutine[Any, Any, B]]) -> list[B]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> B:
        async with gate:
            return await make()

    return await asyncio.gather(*(one() for _ in range(count)))


async def _beating(pilots: Pilots, all_of: list[tuple[str, m.Assignment]]) -> None:
    """Heartbeats, spread over time as those of pilots that began at different times."""
    tasks = []
    began = time.monotonic()
    for nr in range(int(SECONDS / BEAT_S * PILOTS)):
        await asyncio.sleep(max(0.0, began + nr * BEAT_S / PILOTS - time.monotonic()))
        tasks.append(asyncio.create_task(pilots.beat(*all_of[nr % PILOTS])))
    await asyncio.gather(*tasks)
