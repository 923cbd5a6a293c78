"""What a payload leaves that goes with its directory."""

from __future__ import annotations

import stat
from itertools import islice

from ailurus.protocol.job import JobSpec
from pilot.workdir import SCRIPT, Workdir

# How many undeclared files are counted, and how many are named.
MOST_COUNTED, MOST_NAMED = 1000, 5


def undeclared(spec: JobSpec, work: Workdir) -> str:
    """What a payload left that goes with its directory, as a sentence; empty if there is
    nothing."""
    declared = {f"work/{file.name}" for file in spec.inputs}
    declared |= {f"work/{file.name}" for file in spec.outputs}
    if spec.script:
        declared.add(f"work/{SCRIPT}")
    found = (
        name.removeprefix("work/")
        for name, status in work.files(tmp=False)
        if name not in declared and stat.S_ISREG(status.st_mode)
    )
    if not (left := list(islice(found, MOST_COUNTED))):
        return ""
    names = [name if len(name) <= 60 else name[:59] + "…" for name in sorted(left)[:MOST_NAMED]]
    count = f"{len(left)} or more" if len(left) == MOST_COUNTED else f"{len(left)}"
    what = "1 file that was" if len(left) == 1 else f"{count} files that were"
    return f"left {what} not declared: {', '.join(names)}{', …' * (len(left) > MOST_NAMED)}"
