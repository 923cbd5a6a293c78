"""schemathesis over the OpenAPI description, all phases, as an administrator, a worker and an edge
(H1)."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator

from ailurus.protocol.api import Scope
from benchmarks.fuzz import callers
from tests.rig.figure import Figure, figure
from tests.rig.programs import Rig
from tests.rig.schemathesis import sent


def run(args: Namespace) -> Iterator[Figure]:
    """Cases and failures of each role."""
    with Rig(serve=["--rate", "0"]) as rig:
        for role, tokens in callers(rig).items():
            if role not in (Scope.ADMIN, Scope.WORKER, Scope.EDGE):
                continue
            done = sent(rig, tokens[0], "--phases", "examples,coverage,fuzzing,stateful",
                        "--max-examples", "20", "--seed", args.seed)  # fmt: skip
            cases = re.search(r"(\d+) generated", done.stdout)
            note = "" if done.returncode == 0 else done.stdout[-3000:]
            yield figure(f"schemathesis: cases as {role}", int(cases[1]) if cases else 0)
            yield figure(f"schemathesis: exit as {role}", done.returncode, at_most=0, note=note)
