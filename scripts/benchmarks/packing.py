"""Many processes through few slots: ours (the pilot's slot loop), the bare loop, xargs,
HyperQueue."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.bare.pack import Task, area, longest_first, simulated
from benchmarks.bare.pack import run as bare
from tests.rig.figure import ROOT, Figure, figure
from tests.rig.programs import run as command

SLOTS = 16
WIDE = 4  # where two cores saturate with /bin/true
TRUE = 2000
SLEEPS = 200
ROUNDS = 3
HOSTS = 256
QUEUED = (1000, 100_000)
DECISIONS = 3000


def run(args: Namespace) -> Iterator[Figure]:
    """`true` in turn, some rounds; then the sleeps, which need no quiet machine."""
    yield from _decisions(args.seed)
    with tempfile.TemporaryDirectory(prefix="ailurus-bench-") as place:
        yield from _true(Path(place), args.seed)
        yield from _sleeps(Path(place), args.seed)


def _decisions(seed: int) -> Iterator[Figure]:
    """What it costs to choose the next of many for one of many nodes."""
    took = {queued: min(_decide(queued, seed) for _ in range(ROUNDS)) for queued in QUEUED}
    for queued, seconds in took.items():
        yield figure(f"packing: a decision, {HOSTS} nodes, {queued:,} queued", seconds * 1e6, "µs",
                     at_most=120, seed=seed)  # fmt: skip
    few, many = took.values()
    yield figure("packing: the same, many queued against few", many / few, at_most=2, seed=seed)


def _decide(queued: int, seed: int) -> float:
    """Seconds a task: added, started, and its slot given back, one at a time on full nodes."""
    from ailurus.protocol.resources import Resources
    from pilot.node.packing import Packer, Wish

    chance = random.Random(seed)
    packer: Packer[int] = Packer()
    for nr in range(HOSTS):
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


def ragged(seed: int) -> list[Task]:
    """One-core sleeps, log-normal, half a second in the mean."""
    chance = random.Random(seed)
    sigma = 0.8
    return [_sleep(chance.lognormvariate(-(sigma**2) / 2, sigma) * 0.5, 1) for _ in range(SLEEPS)]


def mixed(seed: int) -> list[Task]:
    """The same with 1, 2, 4 and 8 cores, as 4:3:2:1."""
    chance = random.Random(seed + 1)
    cores = chance.choices((1, 2, 4, 8), (4, 3, 2, 1), k=SLEEPS)
    return [task._replace(cores=n) for task, n in zip(ragged(seed), cores, strict=True)]


def _sleep(seconds: float, cores: int) -> Task:
    return Task(("/bin/sleep", f"{seconds:.4f}"), cores, round(seconds, 4))


def _true(place: Path, seed: int) -> Iterator[Figure]:
    tasks = [Task(("/bin/true",))] * TRUE
    took: dict[str, list[float]] = {"bare": [], "ours": [], "xargs": [], "hyperqueue": []}
    for nr in range(ROUNDS):
        took["bare"].append(bare(tasks, WIDE))
        took["ours"].append(ours(tasks, WIDE, place))
        took["xargs"].append(_xargs())
        if nr == 0 and (seconds := hyperqueue(tasks, WIDE, place)):
            took["hyperqueue"].append(seconds)
    rate = {name: TRUE / statistics.median(times) for name, times in took.items() if times}
    yield figure("packing: 2,000 × /bin/true", rate["ours"], "/s", peer=rate["bare"], at_least=0.9,
                 seed=seed, note="peer: bare loop")  # fmt: skip
    yield figure("packing: the same", rate["ours"], "/s", peer=rate["xargs"], seed=seed,
                 note="peer: xargs -P 4")  # fmt: skip
    if "hyperqueue" in rate:
        yield figure("packing: the same", rate["ours"], "/s", peer=rate["hyperqueue"], at_least=3,
                     seed=seed, note="peer: HyperQueue 0.27")  # fmt: skip


def _sleeps(place: Path, seed: int) -> Iterator[Figure]:
    for name, tasks in (("ragged", ragged(seed)), ("mixed", mixed(seed))):
        blind = [task._replace(seconds=0.0) for task in tasks]
        first_come, longest = simulated(tasks, SLOTS), simulated(longest_first(tasks), SLOTS)
        lower = area(tasks, SLOTS)
        yield figure(f"packing: {name}, no estimates", ours(blind, SLOTS, place), "s",
                     peer=first_come, at_most=1.01, seed=seed, note="peer: simulated")  # fmt: skip
        took = ours(tasks, SLOTS, place)
        yield figure(f"packing: {name}, with estimates", took, "s", peer=longest, at_most=1.02,
                     seed=seed, note="peer: simulated longest first")  # fmt: skip
        yield figure(f"packing: {name}, use of slots", lower / took, at_least=0.97, seed=seed,
                     note=f"at best {lower / longest:.3f}")  # fmt: skip
        peers: dict[str, Callable[[], float | None]] = {
            "bare loop, longest first": partial(bare, longest_first(tasks), SLOTS),
            "HyperQueue 0.27": partial(hyperqueue, tasks, SLOTS, place),
        }
        for peer, loop in peers.items():
            if seconds := loop():
                yield figure(f"packing: {name}, with estimates", took, "s", peer=seconds, seed=seed,
                             note=f"peer: {peer}")  # fmt: skip


def ours(tasks: Sequence[Task], width: int, place: Path) -> float:
    """Seconds through the pilot's slots, in a process of its own: its guardian is forked first."""
    file = place / "ours.json"
    file.write_text(json.dumps(tasks))
    return float(
        subprocess.run(
            [sys.executable, "-m", "benchmarks.packing", str(file), str(width)],
            check=True,
            stdout=subprocess.PIPE,
            timeout=120,
        ).stdout
    )


def _ours(file: Path, width: int) -> float:
    from ailurus.protocol.resources import Resources
    from pilot.process import spawner
    from tests.rig import pack

    started = spawner.start()
    tasks = [
        pack.Task(argv, Resources(cores=cores), estimate_s=seconds)
        for argv, cores, seconds in json.loads(file.read_text(encoding="utf-8"))
    ]
    began = time.perf_counter()
    results = pack.pack(tasks, Resources(cores=width), started)
    took = time.perf_counter() - began
    started.close()
    if any(one.exit_code or one.errno for one in results) or len(results) != len(tasks):
        raise RuntimeError("a task failed")
    return took


def _xargs() -> float:
    began = time.perf_counter()
    lines = "x\n" * TRUE
    subprocess.run(
        ["xargs", "-P", str(WIDE), "-L", "1", "/bin/true"], input=lines, text=True, check=True
    )
    return time.perf_counter() - began


def hyperqueue(tasks: Sequence[Task], width: int, place: Path) -> float | None:
    """Seconds by HyperQueue, its start not counted; None where it is not installed."""
    python = ROOT / ".venv-bench" / "bin" / "python"
    if not python.exists() or not shutil.which("touch"):
        return None
    file = place / "hq.json"
    file.write_text(json.dumps([[list(task.argv), task.cores] for task in tasks]))
    Path(f"{file}.end").unlink(missing_ok=True)
    script = Path(__file__).parent / "bare" / "hq.py"
    return float(command(python, script, file, width, seconds=120).splitlines()[-1])


if __name__ == "__main__":
    print(_ours(Path(sys.argv[1]), int(sys.argv[2])))
