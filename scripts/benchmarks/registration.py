"""kill -9 around upload and registration: outputs in a real Rucio, at each kind of storage."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.rig import registration_kills
from tests.rig.figure import Figure, figure
from tests.rig.services import running


def run(args: Namespace) -> Iterator[Figure]:
    """`--kills` in all, shared by the storages."""
    rses = registration_kills.RSES
    shares = Counter(rses[nr % len(rses)] for nr in range(args.kills))
    with running("rucio") as rucio, tempfile.TemporaryDirectory(prefix="ailurus-kills-") as name:
        for rse, kills in shares.items():
            done = registration_kills.run(rucio, rse, kills, args.seed, Path(name))
            sys.stderr.write("".join(f"  {fault}\n" for fault in done.faults[:20]))
            how = (
                f"{dict(done.kills)}; {done.uploads} during an upload, {done.registrations} before "
                f"a registration; attempts {done.attempts}; {done.jobs} outputs"
            )
            yield figure(
                f"registration: {rse}, kills", done.kills.total(), seed=args.seed, note=how
            )
            yield figure(f"registration: {rse}, faults", len(done.faults), at_most=0,
                         seed=args.seed, note="; ".join(done.faults[:5]))  # fmt: skip
