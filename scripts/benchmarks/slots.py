"""What it costs to choose the next of many that wait for one of many nodes."""

from __future__ import annotations

import itertools
import random
import time
from argparse import Namespace
from collections.abc import Iterator

from ailurus.protocol.resources import Resources
from pilot.node.lines import Wish
from pilot.node.packing import Packer
from tests.rig.figure import Figure, figure

NODES = 256
QUEUED = (1000, 100_000)
DECISIONS = 3000
ROUNDS = 3


def run(args: Namespace) -> Iterator[Figure]:
    took = {queued: min(_decide(queued, args.seed) for _ in range(ROUNDS)) for queued in QUEUED}
    for queued, seconds in took.items():
        yield figure(f"slots: a decision, {NODES} nodes, {queued:,} queued", seconds * 1e6, "µs",
                     at_most=120, seed=args.seed)  # fmt: skip
    few, many = took.values()
    yield figure("slots: the same, many queued", many * 1e6, "µs", peer=few * 1e6, at_most=2,
                 seed=args.seed, note="peer: few queued")  # fmt: skip


def _decide(queued: int, seed: int) -> float:
    """Seconds a task: added, started, and its slot given back, one at a time on full nodes."""
    chance = random.Random(seed)
    packer: Packer[int] = Packer()
    for nr in range(NODES):
        packer.join(f"n{nr}", Resources(cores=4, memory_mb=16_000))
    tasks = itertools.count()

    def add() -> None:
        need = Resources(cores=chance.randint(1, 4), memory_mb=1000 * chance.randint(1, 4))
        packer.add(next(tasks), Wish(need, estimate_s=chance.random()))

    for _ in range(queued):
        add()
    running = [item for item, _ in packer.take()]
    began = time.perf_counter()
    for _ in range(DECISIONS):
        add()
        packer.give_back(running.pop(chance.randrange(len(running))))
        running += [item for item, _ in packer.take()]
    return (time.perf_counter() - began) / DECISIONS
