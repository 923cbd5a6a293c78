"""The edge at 10,000 and 100,000 workers in warped time, beside a bare parse and compare of the
listing; 0 → 10,000 and back; 10^5 random scenarios of `decide`."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from benchmarks.edge_child import receive, send
from harvester_edge.decide import decide
from tests.rig.figure import Figure, figure, percentile
from tests.rig.scenarios import excess, scenario
from tests.rig.simulated_site import Weather, World

DAY_S = 86_400.0
START = World(Weather(capacity=0)).now
STEADY = Weather(
    capacity=10**9, wait_s=300, job_s=14_400, lies=0.01, stale=0.01, preempted=0.02, unclear=0.05,
    outages=((START + 30_000, START + 31_000), (START + 60_000, START + 60_600)),
)  # fmt: skip


class Child:
    """An edge in a process of its own."""

    def __init__(self, world: World, root: Path, scaling: dict[str, Any], poll_s: float) -> None:
        self.world = world
        argument = msgspec.json.encode((str(root), scaling, f"{poll_s:.0f}s")).decode()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.edge_child", argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        self._in = cast("BinaryIO", self._process.stdin)
        self._out = cast("BinaryIO", self._process.stdout)
        self.costs: list[float] = []

    def cycle(self) -> int:
        """One cycle; how many workers the edge then knows."""
        send(self._in, repr(self.world.now).encode())
        while (what := receive(self._out).decode()) != "cycled":
            send(self._in, self.world.serve(what, receive(self._out)))
        cost, workers = receive(self._out).split()
        self.costs.append(float(cost))
        return int(workers)

    def rss_mb(self) -> float:
        """The most memory that it ever held."""
        text = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return next(
            int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM")
        )

    def close(self) -> None:
        self._in.close()
        self._process.wait(60)


def run(args: Namespace) -> Iterator[Figure]:
    """All of it, some two minutes."""
    yield from _scenarios(args.seed)
    yield from _ramp(args.seed)
    yield from _day(10_000, 120.0, args.seed, hours=24, rss=80, share=0.2)
    yield from _polled(10_000, 30.0, args.seed)
    yield from _day(100_000, 120.0, args.seed, hours=1, rss=400, share=None)


def _world(workers: int, seed: int) -> World:
    world = World(STEADY, seed=seed)
    world.add(workers * 8)
    return world


def _scaling(workers: int) -> dict[str, Any]:
    return {"max_total": workers, "max_queued": workers, "per_cycle": workers, "idle_exit": "5m"}


def _day(
    workers: int, poll_s: float, seed: int, *, hours: float, rss: float, share: float | None
) -> Iterator[Figure]:
    """A day with so many workers: batch calls, CPU, memory."""
    world = _world(workers, seed)
    name = f"edge, {workers:,} workers"
    with tempfile.TemporaryDirectory() as place:
        child = Child(world, Path(place), _scaling(workers), poll_s)
        try:
            for _ in range(int(hours * 3600 / poll_s)):
                child.cycle()
                world.forward(poll_s)
                world.add(max(0, 8 * workers - world.waiting))
            memory = child.rss_mb()
        finally:
            child.close()
    _hold(world, workers)
    note = f"{hours:g} simulated hours, a look each {poll_s:.0f} s"
    if hours == 24:
        yield figure(f"{name}: listing calls a day", world.calls["listing"], at_most=800, seed=seed)
        yield figure(f"{name}: searches a day", world.calls.get("find", 0), at_most=150, seed=seed)
    cpu = sum(child.costs) / (hours * 3600) * 100
    yield figure(f"{name}: CPU", cpu, "% of a core", at_most=share, note=note, seed=seed)
    yield figure(f"{name}: a cycle, p50", percentile(child.costs[5:], 0.5) * 1000, "ms", seed=seed)
    yield figure(f"{name}: memory at most", memory, "MB", at_most=rss, seed=seed)


def _polled(workers: int, poll_s: float, seed: int) -> Iterator[Figure]:
    """A cycle beside the bare parse and compare of the same listing."""
    world = _world(workers, seed)
    with tempfile.TemporaryDirectory() as place:
        child = Child(world, Path(place), _scaling(workers), poll_s)
        try:
            for _ in range(120):
                child.cycle()
                world.forward(poll_s)
            costs = child.costs[40:]
        finally:
            child.close()
    listing, demand = world.answer_listing(b""), world.answer_demand(b"")
    bare = min(_bare(listing, demand) for _ in range(5))
    name = f"edge, {workers:,} workers, a cycle"
    yield figure(
        name, percentile(costs, 0.5) * 1000, "ms", peer=bare * 1000, at_most=3, seed=seed,
        note=f"bare: decode both answers, compare, write 2 %; {sum(costs) / len(costs) / poll_s * 100:.2f} % of a core "
        f"at a look each {poll_s:.0f} s",
    )  # fmt: skip


def _bare(listing: bytes, demand: bytes) -> float:
    """CPU of the least that any edge does: read the listing and the heartbeats, compare with what
    is known, write 2 % in one commit."""
    known = {key: state for key, state, _ in _fields(listing)}
    with (
        tempfile.TemporaryDirectory() as place,
        closing(sqlite3.connect(f"{place}/known")) as db,
        db,
    ):
        db.executescript("pragma journal_mode = wal; create table known (job, task, state, name)")
        began = time.process_time()
        msgspec.json.decode(demand)
        now = list(_fields(listing))
        changed = [one for nr, one in enumerate(now) if nr % 50 == 0 or known[one[0]] != one[1]]
        db.executemany(
            "insert into known values (?, ?, ?, ?)",
            ((*key, state, name) for key, state, name in changed),
        )
        db.commit()
        return time.process_time() - began


def _ramp(seed: int) -> Iterator[Figure]:
    """0 → 10,000 in a minute, and back, under caps that bind all the way."""
    most, queued = 10_000, 5000
    weather = Weather(capacity=most, wait_s=2, job_s=300, idle_exit_s=20, unclear=0.05)
    world = World(weather, seed=seed)
    scaling = {"max_total": most, "max_queued": queued, "per_cycle": 4000, "idle_exit": "20s"}
    poll_s = 5.0
    with tempfile.TemporaryDirectory() as place:
        child = Child(world, Path(place), scaling, poll_s)
        try:
            world.add(3 * most)
            up = _until(child, world, poll_s, lambda: world.alive - world.unregistered >= most)
            world.waiting = 0
            down = _until(child, world, poll_s, lambda: not world.alive)
            left = child.cycle()
        finally:
            child.close()
    _hold(world, most, queued)
    yield figure("edge, 0 → 10,000 active workers", up, "s", at_most=60, seed=seed)
    yield figure(
        "edge, 10,000 → 0", down, "s", seed=seed,
        note="the last job ends after 450 s, its pilot 20 s later",
    )  # fmt: skip
    yield figure("the same: workers that the edge still believes in", left, at_most=0, seed=seed)


def _until(child: Child, world: World, poll_s: float, done: Callable[[], bool]) -> float:
    began = world.now
    while not done() and world.now - began < 3600:
        child.cycle()
        world.forward(poll_s)
    return world.now - began


def _hold(world: World, total: int, queued: int | None = None) -> None:
    """What no simulation may show."""
    wrong = {
        "workers beyond max_total": world.most_alive > total,
        "queued ones beyond max_queued": queued is not None and world.most_unregistered > queued,
        "payloads killed": world.killed,
        "orders submitted twice": world.twice,
    }
    if found := [what for what, bad in wrong.items() if bad]:
        raise AssertionError(", ".join(found))


def _fields(text: bytes) -> Iterator[tuple[tuple[str, str], str, str]]:
    for line in text.decode().splitlines():
        job, task, state, _, _, name = line.split("|", 5)
        yield (job, task), state, name


# decide, by chance --------------------------------------------------------------------------------


def _scenarios(seed: int, count: int = 100_000) -> Iterator[Figure]:
    """Random sights and limits: no cap exceeded, ever."""
    chance = random.Random(seed)
    exceeded, spent = 0, 0.0
    for _ in range(count):
        seen, limits = scenario(chance)
        began = time.process_time()
        made = decide(seen, limits)
        spent += time.process_time() - began
        exceeded += bool(excess(seen, limits, made))
    yield figure(f"edge, caps exceeded in {count:,} scenarios", exceeded, at_most=0, seed=seed)
    yield figure("edge, a decision", spent / count * 1e6, "µs", seed=seed)
