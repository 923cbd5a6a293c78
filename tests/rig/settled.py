"""A rig whose programs may be killed at any time, and what is left of it at the end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tests.rig import proc
from tests.rig.programs import Rig
from tests.rig.waiting import until

SITE: dict[str, Any] = {
    # As sites run it: only where payloads are kept apart do pilots of a node share their spool.
    "container": {"default": "bubblewrap", "bare": False},
    "scaling": {"max_total": 3, "max_queued": 3, "per_cycle": 3, "idle_exit": "4s"},
}


def settled(rig: Rig) -> list[str]:
    """Let pilots end by themselves, stop the edge and the dispatcher; what is still there then."""
    found = []
    try:
        until(lambda: not rig.pilots(), 30, "pilots without work end")
    except TimeoutError as error:
        found.append(str(error))
    for program in reversed(rig.programs):
        program.stop()
    # Payloads end a moment after what started them.
    with suppress(TimeoutError):
        until(lambda: not proc.marked(rig.mark), 5)
    found += [f"process {pid} is left: {proc.words(pid)[:200]!r}" for pid in proc.marked(rig.mark)]
    return found
