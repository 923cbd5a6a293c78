"""kill -9 of the edge at each step around a submission, and submit commands that lie; then the
batch system's workers and the edge's book are compared."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.rig.batch import Rig, System
from tests.rig.batch_systems import SYSTEMS
from tests.rig.figure import Figure, figure
from tests.rig.waiting import until

FAILPOINTS = (
    "edge.planned", "edge.tokens", "edge.submitting", "edge.submitted", "edge.recorded", "edge.reported",
)  # fmt: skip
"""Where the edge kills itself (ailurus/failpoint.py)."""
KILLS = ("kill-before", "kill-during", "kill-after")
"""When the submit command kills the edge: before it has asked the batch system, while, and
after."""
LIES = ("accept-and-hang", "accept-and-fail", "banner", "two-ids", "half-a-line")
"""What the submit command says of a submission that was accepted; the edge is killed when it
knows."""
PLACES = (*FAILPOINTS, *KILLS, *LIES)
LOCAL = (*FAILPOINTS, "local.spawned")
NEVER_ASKED = ("edge.planned", "edge.tokens", "edge.submitting", "kill-before")
WORKERS = 2
QUICK = {"poll": "0.3s", "settle": "1s", "grace": "1s", "command_timeout": "2s"}


class Count(Struct, kw_only=True):
    """What came of some kills."""

    kills: int = 0
    leaked: int = 0
    """Workers that the batch system has and the edge does not know."""
    twice: int = 0
    """Workers that have begun more than once, and submissions that were repeated."""
    slowest: int = 0
    """Listings until the next edge knew all that the batch system had."""
    faults: list[str] = []


def run(backend: str, kills: int, seed: int) -> Iterator[Figure]:
    """The figures of one backend."""
    with SYSTEMS[backend]() as system:
        count = kill(system, at_random(system, kills, seed))
    note = "; ".join((f"{count.kills} kills", *count.faults[:3]))
    name = f"chaos: {backend}, "
    yield figure(f"{name}workers leaked", count.leaked, at_most=0, seed=seed, note=note)
    yield figure(
        f"{name}workers or submissions twice", count.twice, at_most=0, seed=seed, note=note
    )
    if count.slowest:
        most = "the most listings that the next edge needed to know all workers"
        yield figure(f"{name}cycles to adopt", count.slowest, at_most=2, seed=seed, note=most)


def at_random(system: System, kills: int, seed: int) -> list[str]:
    """So many places of chance."""
    return random.Random(seed).choices(PLACES if system.kind != "local" else LOCAL, k=kills)


def kill(system: System, places: Iterable[str]) -> Count:
    """A kill at each of these places, in this order."""
    count = Count()
    with sleepers(system, WORKERS, backend={"limits": QUICK}) as rig:
        rig.configure(**rig.site | {"pilot": {"program": _begins(rig)}})
        for nr, place in enumerate(places):
            try:
                _kill(rig, system, place, count)
            except TimeoutError as error:
                count.leaked += len(set(system.live()) - set(rig.known())) or 1
                count.faults.append(f"{nr}, {place}: {error}")
                sys.stderr.write(f"  {count.faults[-1]}\n{rig.log()[-2000:]}\n")
            count.kills += 1
            rig.end()
            system.empty()
            rig.forgive()
            (rig.directory / "mode").unlink(missing_ok=True)
            if nr % 20 == 19:
                sys.stderr.write(f"  {nr + 1} kills\n")
        begun = Counter(Path(rig.directory, "begun").read_text(encoding="utf-8").split())
        again = [name for name, times in begun.items() if times > 1]
        count.twice += len(again)
        count.faults += [f"{name} began {begun[name]} times" for name in again]
    return count


def sleepers(system: System, workers: int, **site: Any) -> Rig:
    """A site that keeps so many workers, which only sleep."""
    scaling = {"max_total": workers, "max_queued": workers, "per_cycle": workers, "floor": workers,
               "idle_exit": "5m"}  # fmt: skip
    rig = Rig(system, scaling=scaling)
    rig.configure(**{"scaling": scaling, "pilot": {"program": str(rig.directory / "idle")}, **site})
    return rig


def _begins(rig: Rig) -> str:
    """Instead of a pilot: writes down which worker has begun."""
    begun = rig.directory / "begun"
    begun.touch()
    begun.chmod(0o666)
    return rig.program("begins", f'echo "$AILURUS_BOOTSTRAP_FILE" >> {begun}; exec sleep 1000')


def _kill(rig: Rig, system: System, place: str, count: Count) -> None:
    """One: the edge dies there, and the next one must find what became of its submission."""
    submissions = rig.submissions
    if place in LOCAL:
        edge = rig.edge(AILURUS_FAILPOINTS=place)
    else:
        rig.lie(place)
        edge = rig.edge()
    if place in LIES:
        until(lambda: rig.agrees(WORKERS), 60, "an accepted submission is adopted")
        rig.kill(edge)
    if edge.wait(60) != -signal.SIGKILL:
        raise TimeoutError(f"the edge was to be killed: {rig.log()[-500:]}")
    listings = rig.listings
    rig.edge()
    until(lambda: len(rig.known()) == WORKERS, 60, "the next edge has its workers")
    if place not in NEVER_ASKED:
        count.slowest = max(count.slowest, rig.listings - listings)
    until(lambda: rig.agrees(WORKERS), 60, "the edge knows what the batch system has")
    time.sleep(0.4)  # one look more
    until(lambda: rig.agrees(WORKERS), 60, "it stays so")
    asked = rig.submissions - submissions
    if system.kind != "local" and asked != (2 if place == "kill-before" else 1):
        count.twice += 1
        count.faults.append(f"{place}: {asked} submissions")
