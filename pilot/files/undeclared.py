"""What a payload leaves that goes with its directory."""

from __future__ import annotations

import stat
from collections.abc import Callable
from itertools import islice

from ailurus.protocol import trees
from ailurus.protocol.job import JobSpec
from pilot.workdir import LAUNCH, SCRIPT, Workdir

# How many undeclared files are counted, and how many are named.
MOST_COUNTED, MOST_NAMED = 1000, 5


def declares(spec: JobSpec) -> Callable[[str], bool]:
    """Whether a name in the job's directory is that of an input or an output, or lies in a
    directory that is one: of a data set or an archive among its inputs, of a tree that it
    leaves."""
    inputs = {trees.place(file) for file in spec.inputs}
    outputs = {file.name for file in spec.outputs}
    patterns = [name for name in outputs if trees.is_many(name)]

    def declared(name: str) -> bool:
        above = name
        while above:
            if above in inputs:
                return True
            above = above.rpartition("/")[0]
        return name in outputs or any(trees.matches(one, name) for one in patterns)

    return declared


def undeclared(spec: JobSpec, work: Workdir) -> str:
    """What a payload left that goes with its directory, as a sentence; empty if there is
    nothing."""
    declared = declares(spec)
    names_of_files = (
        name.removeprefix("work/")
        for name, status in work.files(tmp=False)
        if stat.S_ISREG(status.st_mode)
    )
    ours = {spec.result, SCRIPT if spec.script else ""}
    found = (
        name
        for name in names_of_files
        if name not in ours and not name.startswith(f"{LAUNCH}/") and not declared(name)
    )
    if not (left := list(islice(found, MOST_COUNTED))):
        return ""
    names = [name if len(name) <= 60 else name[:59] + "…" for name in sorted(left)[:MOST_NAMED]]
    count = f"{len(left)} or more" if len(left) == MOST_COUNTED else f"{len(left)}"
    what = "1 file that was" if len(left) == 1 else f"{count} files that were"
    return f"left {what} not declared: {', '.join(names)}{', …' * (len(left) > MOST_NAMED)}"
