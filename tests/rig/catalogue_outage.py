"""A real Rucio that is away while jobs store and register their outputs: what becomes of these."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from tests.rig import history
from tests.rig.proxy import Fault, Proxy
from tests.rig.registering import Site
from tests.rig.services import Service
from tests.rig.waiting import until

LATE_S = 60.0
"""Between the end of an outage and the next try of a pilot, and of the dispatcher, at most."""
TOGETHER = 4
"""Jobs of one submission, and of one data set."""
LEAVE = {"cut": (), "stalled": ("signal", "STOP"), "ended": ("down",)}
"""How Rucio goes: for the dispatcher alone, whose way to it is cut; for all, as it stands still; or
as it has ended."""
COME_BACK = {"cut": (), "stalled": ("signal", "CONT"), "ended": ("up",)}


class Outage(Struct, frozen=True, kw_only=True):
    """What an outage did."""

    jobs: int
    outputs: int
    due: int
    """Outputs that were in storage when Rucio came back, and not registered."""
    waited: int
    """Jobs whose payload had ended by then, while nobody could say where their outputs go."""
    done_s: float
    """From then until all were registered and all data sets closed."""
    faults: tuple[str, ...] = ()


def run(
    rucio: Service, folder: Path, away: Sequence[tuple[str, float]], *, rounds: int, seed: int = 1
) -> Outage:
    """Jobs are submitted in so many rounds, evenly over an outage. `away`: how Rucio is, one after
    the other, and for how many seconds; `folder`: for files of the run."""
    away_s = sum(seconds for _, seconds in away)
    how = "up"

    def fault(_: int) -> Fault:
        return Fault.CUT if how == "cut" else Fault.NONE

    port = urlsplit(rucio.facts["url"]).port
    assert port is not None
    with Proxy(port, fault) as proxy:
        patience = {"outage_tolerance": round(away_s + 2 * LATE_S)}
        site = Site(rucio, "ROOT", seed, folder, attempts=1, url=proxy.url, **patience)
        with site.rig as rig:
            rig.start_edge()
            site.submit(TOGETHER, [0])
            done = "select 1 from registration where state = 'done'"
            until(lambda: rig.rows(done), LATE_S, "an output is registered")
            began, end, sent = time.monotonic(), 0.0, 0
            try:
                for how, seconds in away:
                    if LEAVE[how]:
                        rucio.ask(*LEAVE[how])
                    end += seconds
                    while (passed := time.monotonic() - began) < end:
                        if passed >= away_s * sent / rounds:
                            sent += 1
                            site.submit(TOGETHER, [sent])
                        time.sleep(0.2)
                waited, due = site.between()
            finally:
                if COME_BACK[how]:
                    rucio.ask(*COME_BACK[how])
                how = "up"
            return _ended(site, waited, due)


def _ended(site: Site, waited: int, due: int) -> Outage:
    back = time.monotonic()
    faults = []
    try:
        site.wait(2 * LATE_S)
    except TimeoutError as error:
        faults.append(str(error))
    done_s = time.monotonic() - back
    faults += site.end()
    if (attempts := history.attempts(site.rig)) != {"finished": len(site.expected)}:
        faults.append(f"attempts of {len(site.expected)} jobs: {dict(attempts)}")
    site.rig.keep = bool(faults)
    outputs = sum(map(len, site.expected.values()))
    return Outage(
        jobs=len(site.expected),
        outputs=outputs,
        due=due,
        waited=waited,
        done_s=done_s,
        faults=tuple(faults),
    )
