"""The end of a file that somebody wants to see while its job runs: of its directory and no
other."""

from __future__ import annotations

import os

from ailurus.regular import open_regular
from pilot.attempt import Attempt
from pilot.files.live_log import text_of
from pilot.workdir import tail_of

MOST = 7000


def tail(attempt: Attempt, name: str) -> str:
    """The last few kilobytes of `name`, or why not."""
    if attempt.work is None:
        return "(the job has no directory yet)"
    try:
        if name in ("stdout", "stderr"):
            path = attempt.work.stdout if name == "stdout" else attempt.work.stderr
            fd = open_regular(path)
        else:
            fd = attempt.work.open(name)
    except FileNotFoundError:
        return f"(the job has no file {name!r})"
    except (OSError, ValueError):
        return f"({name!r} is not a regular file in the job's directory)"
    try:
        return text_of(tail_of(fd, MOST)[1])
    finally:
        os.close(fd)
