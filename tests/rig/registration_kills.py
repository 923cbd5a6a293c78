"""kill -9 of a pilot, of its mover, of the dispatcher and of its catalogue's process, each between
the begin of an upload and the end of its registration in a real Rucio; then jobs, storage and
catalogue are compared."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.rig import history, proc
from tests.rig.registering import Site
from tests.rig.services import Service
from tests.rig.waiting import until

KINDS = ("pilot", "mover", "dispatcher", "catalogue")
"""What is killed, in turn."""
RSES = ("ROOT", "DAVS", "POSIX")
SPAN_S = 0.6
"""How long it may take from the begin of an upload to the end of its registration: a kill comes at
a moment of chance in it."""
WAITING = 8
"""So many jobs are queued at least while there is something to kill."""
ATTEMPTS = 20
DATASETS = 3
END_S = 150.0


class Count(Struct, kw_only=True):
    """What came of some kills."""

    kills: Counter[str] = msgspec.field(default_factory=Counter)
    """By what was killed."""
    uploads: int = 0
    """Kills while an output was on its way to storage, or its report to the dispatcher."""
    registrations: int = 0
    """Kills while one was to be registered."""
    jobs: int = 0
    attempts: dict[str, int] = {}
    faults: list[str] = []


def run(rucio: Service, rse: str, kills: int, seed: int, folder: Path) -> Count:
    """So many kills at one RSE; `folder`: for files of the run."""
    site = Site(rucio, rse, seed, folder, attempts=ATTEMPTS)
    count = Count()
    with site.rig as rig:
        rig.start_edge()
        kinds = [KINDS[nr % len(KINDS)] for nr in range(kills)]
        for nr, kind in enumerate(kinds):
            _kill(site, kind, count)
            if nr % 10 == 9:
                sys.stderr.write(f"  {rse}: {nr + 1} kills\n")
        try:
            site.wait(END_S)
        except TimeoutError as error:
            count.faults.append(str(error))
        count.faults += site.end()
        count.jobs = len(site.expected)
        count.attempts = dict(history.attempts(rig))
        rig.keep = bool(count.faults)
    return count


def _kill(site: Site, kind: str, count: Count) -> None:
    """One, while there is an output between upload and registration."""

    def hit() -> bool:
        until(lambda: _busy(site), 60, "an output is stored")
        time.sleep(site.chance.uniform(0.0, SPAN_S))
        uploads, due = site.between()
        victims = _victims(site, kind)
        if not (uploads or due) or not victims or not _gone(site.chance.choice(sorted(victims))):
            return False
        count.uploads += bool(uploads)
        count.registrations += bool(due)
        return True

    until(hit, 120, f"a {kind} is killed", every_s=0.0)
    count.kills[kind] += 1
    if kind == "dispatcher":
        site.rig.dispatcher.process.wait()
        site.rig.serve()


def _busy(site: Site) -> bool:
    """Whether there is something to kill; sees to it that there will be."""
    ((waiting,),) = site.rig.rows("select count(*) from job where state = 'activated'")
    if waiting < WAITING:
        site.submit(WAITING, range(DATASETS))
    return any(site.between())


def _victims(site: Site, kind: str) -> list[int]:
    """Processes of a kind that live now."""
    rig = site.rig
    if kind == "pilot":
        return rig.pilots()
    if kind == "dispatcher":
        return [rig.dispatcher.pid]
    if kind == "catalogue":
        return _below([rig.dispatcher.pid], b"dispatcher.catalogue.child")
    return _below(rig.pilots(), b"pilot.process.mover")


def _below(pids: list[int], word: bytes) -> list[int]:
    return [one for pid in pids for one in proc.below(pid) if word in proc.words(one)]


def _gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
