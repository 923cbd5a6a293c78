"""A real storage that is away for ten minutes while jobs store their outputs."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from tests.rig import outage
from tests.rig.figure import Figure, figure
from tests.rig.services import running

JOBS = 40


def run(args: Namespace) -> Iterator[Figure]:
    """`--away`: seconds."""
    with running("xrootd") as xrootd:
        place = Path(xrootd.facts["store"], "outage")
        place.mkdir()
        place.chmod(0o777)
        done = outage.run(xrootd, place, args.away, jobs=JOBS)
    sys.stderr.write("".join(f"  {fault}\n" for fault in done.faults))
    yield figure("outage: outputs that waited", done.waited, note=f"of {done.outputs}")
    yield figure("outage: until all were stored, s", done.done_s, at_most=outage.LATE_S + 10)
    yield figure("outage: lost, doubled or damaged", len(done.faults), at_most=0)
