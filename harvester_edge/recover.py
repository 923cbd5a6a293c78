"""Sends the reports that dead pilots left in the spool of a site, when no next pilot may come to
send them.

The spool is the pilots' own: `pilot --recover` reads it. A pilot that lives has its part locked, so
this may run at any time.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.worker import Ending
from harvester_edge import pilot_file
from harvester_edge.connect import access
from harvester_edge.edge import FIRST_RETRY_S, Edge
from harvester_edge.evidence import Worker
from harvester_edge.launch import spool_directory, trust_options
from harvester_edge.shared_files import pilot_program, site_file, write_site_file

IN_ORDER = frozenset({Ending.DONE, Ending.IDLE_EXIT, Ending.NEVER_REGISTERED})
"""Endings after which a pilot owes no report."""
LONGEST_RETRY_S = 900.0


def recover(edge: Edge, ended: Iterable[Worker], *, dispatcher_answers: bool) -> None:
    """Start a recovery if pilots died, again if it failed; at most one at a time. Waits for
    nothing."""
    state = edge.recovery
    if any(worker.ending not in IN_ORDER for worker in ended):
        state.due_at = edge.clock()
    if state.process is not None:
        code = state.process.poll()
        if code is None:
            return
        state.process = None
        if code:
            edge.log.warning("recovery_failed", code=code, reason=_end_of_log(edge))
            _retry_later(edge)
        else:
            state.retry_s = FIRST_RETRY_S
    if state.due_at is None or edge.clock() < state.due_at or not dispatcher_answers:
        return
    state.due_at = None
    try:
        _start(edge)
    except (AilurusError, OSError) as error:
        edge.log.warning("recovery_failed", reason=str(error))
        _retry_later(edge)


def _command(edge: Edge) -> list[str]:
    site = edge.site
    queue = next(iter(site.slots.values())).queue
    argv = [pilot_program(site), "--recover", "--url", site.dispatcher.url, "--queue", queue,
            "--site", str(site_file(site)), "--spool", str(spool_directory(site))]  # fmt: skip
    argv += trust_options(site)
    return argv + [part for option in access(site).options.items() for part in option]


def _start(edge: Edge) -> None:
    """Start a recovery, if there is anything in the spool. Raises AilurusError or OSError."""
    pilot_file.hand_out(edge.site)
    argv = _command(edge)
    spool = spool_directory(edge.site)
    if not spool.is_dir() or not any(spool.iterdir()):
        return
    write_site_file(edge.site)
    null = subprocess.DEVNULL
    environment = os.environ | access(edge.site).environment
    with _log_file(edge).open("wb") as log:
        edge.recovery.process = subprocess.Popen(
            argv, stdin=null, stdout=null, stderr=log, env=environment
        )


def _log_file(edge: Edge) -> Path:
    return edge.state / "recover.log"


def _end_of_log(edge: Edge) -> str:
    try:
        return _log_file(edge).read_text("utf-8", "replace")[-500:]
    except OSError as error:
        return f"its log cannot be read: {error.strerror}"


def _retry_later(edge: Edge) -> None:
    """Reports stay where they are, for days, while no dispatcher answers that is known to have
    given their keys."""
    state = edge.recovery
    state.due_at = edge.clock() + state.retry_s
    state.retry_s = min(2 * state.retry_s, LONGEST_RETRY_S)
