"""A real storage, or a real catalogue, that is away for ten minutes while jobs store their
outputs."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from tests.rig import catalogue_outage, outage
from tests.rig.figure import Figure, figure
from tests.rig.services import running

JOBS = 40
ROUNDS = 20
HOW = {"cut": 0.1, "stalled": 0.4, "ended": 0.5}
"""How the catalogue is away, one after the other, in shares of its outage."""


def run(args: Namespace) -> Iterator[Figure]:
    """`--away`: seconds; `--catalogue`: that of a Rucio, and not of a storage."""
    yield from _of_catalogue(args) if args.catalogue else _of_storage(args)


def _of_storage(args: Namespace) -> Iterator[Figure]:
    with running("xrootd") as xrootd:
        place = Path(xrootd.facts["store"], "outage")
        place.mkdir()
        place.chmod(0o777)
        done = outage.run(xrootd, place, args.away, jobs=JOBS)
    sys.stderr.write("".join(f"  {fault}\n" for fault in done.faults))
    yield figure("outage: outputs that waited", done.waited, note=f"of {done.outputs}")
    yield figure("outage: until all were stored, s", done.done_s, at_most=outage.LATE_S + 10)
    yield figure("outage: lost, doubled or damaged", len(done.faults), at_most=0)


def _of_catalogue(args: Namespace) -> Iterator[Figure]:
    away = [(how, args.away * share) for how, share in HOW.items()]
    with running("rucio") as rucio, tempfile.TemporaryDirectory(prefix="ailurus-away-") as name:
        done = catalogue_outage.run(rucio, Path(name), away, rounds=ROUNDS, seed=args.seed)
    sys.stderr.write("".join(f"  {fault}\n" for fault in done.faults))
    yield figure("outage: jobs with outputs that waited", done.waited, note=f"of {done.jobs}")
    yield figure("outage: outputs stored and not registered", done.due, note=f"of {done.outputs}")
    late_s = 2 * catalogue_outage.LATE_S
    yield figure("outage: until all were registered, s", done.done_s, at_most=late_s)
    yield figure("outage: lost, doubled, damaged or open", len(done.faults), at_most=0)
