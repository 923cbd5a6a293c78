"""Many payloads through few slots: a job of items at a real dispatcher, the bare loop, xargs,
HyperQueue."""

from __future__ import annotations

import json
import random
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.states import FINAL, JobState
from benchmarks.bare.pack import Task, area, longest_first, simulated
from benchmarks.bare.pack import run as bare
from tests.rig.figure import ROOT, Figure, figure
from tests.rig.programs import Rig, null_job
from tests.rig.programs import run as command

SLOTS = 16
TRUE = 2000
SLEEPS = 200
ROUNDS = 3


def run(args: Namespace) -> Iterator[Figure]:
    """`true` in turn, some rounds; then the sleeps, which need no quiet machine."""
    with tempfile.TemporaryDirectory(prefix="ailurus-bench-") as place, ExitStack() as stack:
        boxes = {"": Way(stack, bare=True), ", in a container": Way(stack, bare=False)}
        for name, way in boxes.items():
            yield from _true(name, way, args.seed)
        yield from _beside(boxes[""], Path(place), args.seed)
        yield from _sleeps(boxes[""], Path(place), args.seed)


class Way:
    """The whole way of a job of items: a dispatcher, and a pilot with slots."""

    def __init__(self, stack: ExitStack, *, bare: bool) -> None:
        container: dict[str, object] = {"default": "bare", "bare": True}
        if not bare:
            container = {"default": "bubblewrap"}
        self._rig = stack.enter_context(Rig(cores=SLOTS, container=container))
        self._rig.pilot("--slot", "std")
        self._rig.warm()

    def took(self, tasks: Sequence[Task]) -> tuple[float, float]:
        """Seconds from the job's submission until it has finished, and from the first begin of an
        item to the last end. Raises RuntimeError if one fails."""
        client = self._rig.client
        specs = [
            ItemSpec(command=" ".join(task.argv), cores=task.cores, estimate_s=task.seconds or None)
            for task in tasks
        ]
        payloads = client.upload(secrets.token_hex(8), specs)
        spec = null_job(0, payloads=payloads, cores=SLOTS, memory_mb=100 * SLOTS)
        began = time.perf_counter()
        (job_id,) = client.submit([spec]).job_ids
        while client.wait([job_id], timeout_s=60).states[job_id] not in FINAL:
            pass
        took = time.perf_counter() - began
        found = client.items(job_id, ItemsQuery(limit=1000)).items
        if client.show(job_id).row.state is not JobState.FINISHED:
            raise RuntimeError("a task failed")
        return took, max(one.ended or 0 for one in found) - min(one.started or 0 for one in found)


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


def _true(name: str, way: Way, seed: int) -> Iterator[Figure]:
    tasks = [Task(("/bin/true",))] * TRUE
    loop, ours = [], []
    for _ in range(ROUNDS):
        loop.append(bare(tasks, SLOTS))
        ours.append(way.took(tasks)[0])
    yield figure(f"packing: 2,000 × /bin/true{name}", TRUE / statistics.median(ours), "/s",
                 peer=TRUE / statistics.median(loop), at_least=0.85, seed=seed,
                 note="a job of items, from submitted to finished; peer: bare loop")  # fmt: skip


def _beside(way: Way, place: Path, seed: int) -> Iterator[Figure]:
    """The same beside other programs, once."""
    tasks = [Task(("/bin/true",))] * TRUE
    rate = TRUE / way.took(tasks)[0]
    yield figure("packing: the same", rate, "/s", peer=TRUE / _xargs(), seed=seed,
                 note="peer: xargs")  # fmt: skip
    if seconds := hyperqueue(tasks, SLOTS, place):
        yield figure("packing: the same", rate, "/s", peer=TRUE / seconds, at_least=3, seed=seed,
                     note="peer: HyperQueue 0.27")  # fmt: skip


def _sleeps(way: Way, place: Path, seed: int) -> Iterator[Figure]:
    for name, tasks in (("ragged", ragged(seed)), ("mixed", mixed(seed))):
        blind = [task._replace(seconds=0.0) for task in tasks]
        first_come, longest = simulated(tasks, SLOTS), simulated(longest_first(tasks), SLOTS)
        lower = area(tasks, SLOTS)
        yield figure(f"packing: {name}, no estimates", way.took(blind)[1], "s",
                     peer=first_come, at_most=1.01, seed=seed, note="peer: simulated")  # fmt: skip
        took = way.took(tasks)[1]
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


def _xargs() -> float:
    began = time.perf_counter()
    lines = "x\n" * TRUE
    subprocess.run(
        ["xargs", "-P", str(SLOTS), "-L", "1", "/bin/true"], input=lines, text=True, check=True
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
