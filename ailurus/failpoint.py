"""Places where a test kills this process: `AILURUS_FAILPOINTS=edge.planned:3` dies by SIGKILL when
`edge.planned` is passed for the third time. Unset, a failpoint costs one comparison.

All names, each covered by a kill test:
    edge.planned        the intent is on disk, nothing else has happened
    edge.tokens         the dispatcher has given bootstrap tokens
    edge.submitting     the batch system is about to be asked
    local.spawned       a worker's process runs, the edge has written nothing about it
    edge.submitted      the batch system has answered
    edge.recorded       the outcome is on disk
    edge.reported       the dispatcher knows, the edge does not yet know that it does
"""

from __future__ import annotations

import os
import signal

_armed = {
    name: int(nth or 1)
    for name, _, nth in (
        one.partition(":") for one in os.environ.get("AILURUS_FAILPOINTS", "").split(",") if one
    )
}


def failpoint(name: str) -> None:
    """Die here, if a test says so."""
    if not _armed or name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
