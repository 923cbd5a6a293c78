"""Reports that dead pilots left in the spool of a site, when no next pilot may come to send them.

The spool is the pilots' own: `pilot --recover` reads it. A pilot that lives has its part locked, so this
may run at any time.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.worker import Ending
from harvester_edge import pilot_file
from harvester_edge.act import launch, trust_options
from harvester_edge.edge import Edge, write_site_file
from harvester_edge.observe import Seen

IN_ORDER = frozenset({Ending.DONE, Ending.IDLE_EXIT, Ending.NEVER_REGISTERED})
"""Endings after which nothing is owed."""
AGAIN_S, LONGEST_S = 60.0, 900.0


def recover(edge: Edge, seen: Seen) -> None:
    """Begin one if pilots died, again if it failed; at most one at a time, and it waits for nothing."""
    if any(worker.ending not in IN_ORDER for worker in seen.ended):
        edge.recover_at = edge.clock()
    said = edge.state / "recover.log"
    if edge.recovery is not None:
        code = edge.recovery.poll()
        if code is None:
            return
        edge.recovery = None
        if code:
            reason = said.read_text("utf-8", "replace")[-500:]
            edge.log.warning("recovery_failed", code=code, reason=reason)
            _later(edge)
        else:
            edge.recover_again_s = AGAIN_S
    if edge.recover_at is None or edge.clock() < edge.recover_at or seen.snapshot.unheard:
        return
    edge.recover_at = None
    try:
        pilot_file.hand_out(edge.site)
        how = launch(edge.site, "", next(iter(edge.site.slots)))
    except (AilurusError, OSError) as error:
        edge.log.warning("recovery_failed", reason=str(error))
        _later(edge)
        return
    spool = Path(how.spool)
    if not spool.is_dir() or not any(spool.iterdir()):
        return
    write_site_file(edge.site)
    argv = [how.program, "--recover", "--url", edge.site.dispatcher.url, "--queue", how.queue,
            "--site", str(how.site_file), "--spool", how.spool, *trust_options(edge.site)]  # fmt: skip
    argv += [part for option in how.access.options.items() for part in option]
    environment = os.environ | how.access.environment
    null = subprocess.DEVNULL
    try:
        with said.open("wb") as log:
            edge.recovery = subprocess.Popen(
                argv, stdin=null, stdout=null, stderr=log, env=environment
            )
    except OSError as error:
        edge.log.warning("recovery_failed", reason=str(error))


def _later(edge: Edge) -> None:
    """Reports that nobody takes who is known to have given their keys stay where they are, for days."""
    edge.recover_at = edge.clock() + edge.recover_again_s
    edge.recover_again_s = min(2 * edge.recover_again_s, LONGEST_S)
