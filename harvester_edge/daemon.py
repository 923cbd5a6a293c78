"""The edge at work: `cycle` is observe, reconcile, record, decide, act; the rest is when, and who
may."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ailurus.loops import Loops
from ailurus.protocol.errors import AilurusError
from harvester_edge import credential, lease, machines, owned, shared_files
from harvester_edge.act import act, report, tidy
from harvester_edge.book import BookUnwritable
from harvester_edge.decide import Bound, Decision, decide, undone
from harvester_edge.edge import Edge
from harvester_edge.lease import SiteTaken
from harvester_edge.loop_status import LoopStatusWriter
from harvester_edge.observe import circumstances, observe
from harvester_edge.reconcile import Changes, Observation, reconcile
from harvester_edge.record import record
from harvester_edge.recover import recover
from harvester_edge.relay.behind import behind
from harvester_edge.snapshot import limits, snapshot

TIDY_S = 600.0
_LEAVING = Bound(allowed=0, name="paused", why="the edge drains its workers and stops")


def cycle(edge: Edge) -> Decision:
    """One round: observe → reconcile → record → decide → act. Raises SiteTaken, or
    BookUnwritable."""
    files_fault = shared_files.fault(edge.site, edge.log)
    seen, changes = _look(edge)
    # Only now is the site ours: a standby's files may be older.
    files_fault = files_fault or _hand_credentials_out(edge)
    machines.note(edge.book, edge.site, edge.workers, seen.demand.answer.workers, seen.now)
    around = circumstances(edge, seen.now, files_fault)
    decision = decide(snapshot(edge.site, edge.workers, seen, around), limits(edge.site))
    decision = undone(decision, act(edge, decision, seen, changes))
    if decision != edge.decisions.last:
        edge.book.decided(edge.clock(), edge.site.site, decision)
        _log(edge, decision)
        edge.decisions.last = decision
    _afterwards(edge, seen, changes)
    _mark(edge)
    if edge.clock() - edge.tidied_at > TIDY_S:
        edge.tidied_at = edge.clock()
        tidy(edge)
    return decision


def _hand_credentials_out(edge: Edge) -> str:
    """Give pilots what has been renewed; why they have no good credential."""
    try:
        handed = credential.hand_out(edge.site, edge.clock())
    except AilurusError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    for name in handed.renewed:
        edge.log.info("credential_handed_out", credential=name)
    if troubles := (*handed.faults, *handed.warnings):
        edge.throttled_log.warning("credential_trouble", "; ".join(troubles))
    else:
        edge.throttled_log.resolved("credential_trouble")
    return "; ".join(handed.faults)


def _look(edge: Edge) -> tuple[Observation, Changes]:
    """Observe, and write down what that changes."""
    seen = observe(edge, lease.renew(edge) or behind(edge.site))
    changes = reconcile(edge.workers, seen, edge.rules)
    record(edge, seen, changes)
    return seen, changes


def run(edge: Edge, stop: threading.Event, *, standby: bool = False) -> None:
    """Cycle until told to stop. Workers stay: the next edge adopts them. A standby takes the site
    when the edge that has it falls silent, and waits again if it is taken from it."""
    edge.log.info(
        "edge_started", site=edge.site.site, poll_s=edge.poll_s, workers=len(edge.workers)
    )
    waits = False
    turns = _Turns(edge, "cycle")
    while not stop.is_set():
        pause_s = edge.poll_s
        try:
            pause_s = turns.do(lambda: cycle(edge))
            waits = False
        except SiteTaken as error:
            if not standby:
                raise
            if not waits:
                edge.log.info("standing_by", reason=str(error))
            waits = True
            _mark(edge)
        stop.wait(pause_s)
    edge.log.info("edge_stopped", workers=len(edge.workers))


def drain_all(edge: Edge, stop: threading.Event) -> None:
    """Submit nothing more, let every worker finish what it has, and return when all have ended."""
    turns = _Turns(edge, "drain")
    while edge.workers and not stop.is_set():
        stop.wait(turns.do(lambda: _drain(edge)))
    report(edge)


def _drain(edge: Edge) -> None:
    seen, changes = _look(edge)
    _hand_credentials_out(edge)
    decision = Decision(submit={}, drain=len(seen.rows), binding=_LEAVING, bounds=(_LEAVING,))
    act(edge, decision, seen, changes)
    _afterwards(edge, seen, changes)
    _mark(edge)


class _Turns:
    """Cycles of an edge, one after the other, whatever stops one of them: the next begins where it
    ended, and what does not recover is left for `status` and `doctor` to tell."""

    def __init__(self, edge: Edge, name: str) -> None:
        self._edge = edge
        self._loops = Loops(edge.log)
        self._loop = self._loops.add(name)
        self._status = LoopStatusWriter(edge.state, self._loops, edge.log)

    def do(self, cycle: Callable[[], object]) -> float:
        """Do one; how many seconds to wait for the next. Raises SiteTaken."""
        pause_s = 0.0
        try:
            cycle()
        except SiteTaken:
            raise
        except BookUnwritable as error:
            # Nothing is done that the book could not take first.
            pause_s = self._loops.note(self._loop, error)
        # An edge that ends lets the site run empty.
        except Exception as error:  # noqa: BLE001
            pause_s = self._loops.note(self._loop, error)
            self._remember()
        else:
            self._loop.turned(None)
        self._status.write()
        return max(self._edge.poll_s, pause_s)

    def _remember(self) -> None:
        """Memory is what the book says: it may have been left in between."""
        edge = self._edge
        try:
            live = edge.book.live()
        except (AilurusError, sqlite3.Error) as error:
            edge.log.warning("book_not_read", reason=str(error))
            return
        edge.workers.clear()
        edge.workers.update((worker.key, worker) for worker in live)


def _mark(edge: Edge) -> None:
    """Say when a cycle was finished, for `last_look`: nothing that was done depends on it."""
    try:
        (edge.state / "alive").touch()
    except OSError as error:
        # No descriptor, or no room on the disk.
        edge.log.warning("cycle_not_marked", reason=str(error))


def _afterwards(edge: Edge, seen: Observation, changes: Changes) -> None:
    """Send dead pilots' own reports, then report the workers as ended: that puts their jobs back
    into the queue, also those that had finished."""
    answers = not seen.dispatcher_fault
    recover(edge, changes.ended, dispatcher_answers=answers)
    if edge.recovery.process is None and answers:
        report(edge)


@contextmanager
def sole(state: Path, site: str) -> Iterator[None]:
    """Be the only edge with this state directory, on this machine. Raises SiteTaken if there is
    another."""
    owned.own(state, "paths.state")
    with (state / "lock").open("a+", encoding="utf-8") as file:
        if not _locked(file):
            raise SiteTaken(
                f"an edge of site {site} already runs here: process {holder(state)}",
                remedy="stop that one first; `harvester-edge status` works beside it",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    # `status` may lock it for a moment, only to see whether it is locked.
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def holder(state: Path) -> int | None:
    """The process id of the edge that runs with this state directory."""
    try:
        with (state / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0)
    except (FileNotFoundError, ValueError):
        pass
    return None


def began(state: Path) -> float:
    """When the last edge of this state directory began."""
    try:
        return (state / "lock").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def last_look(state: Path) -> float | None:
    """When the edge of this state directory finished its last cycle."""
    try:
        return (state / "alive").stat().st_mtime
    except FileNotFoundError:
        return None


def _log(edge: Edge, decision: Decision) -> None:
    edge.log.info(
        "decided", submit=decision.submit, drain=decision.drain,
        binding=decision.binding.name, why=decision.binding.why,
    )  # fmt: skip
