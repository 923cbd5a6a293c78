"""The edge at work: `cycle` is observe, decide, act; the rest is when, and who may."""

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
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import size_mb
from ailurus.wire import authority
from ailurus.wire.client import Refused, WireError
from harvester_edge import owned
from harvester_edge.act import act, tell, tidy
from harvester_edge.book import BookUnwritable
from harvester_edge.decide import Bound, Decision, Limits, decide, undone
from harvester_edge.edge import Edge, grounded
from harvester_edge.loop_status import Teller
from harvester_edge.observe import Seen, observe
from harvester_edge.recover import recover
from harvester_edge.relay.behind import behind
from harvester_edge.site import Site, percent

TIDY_S = 600.0
_LEAVING = Bound(room=0, name="paused", why="the edge drains its workers and stops")


class SiteTaken(AilurusError):
    """Another edge provisions this site."""


def cycle(edge: Edge) -> Decision:
    """One round: observe → decide → act."""
    unfit = grounded(edge)
    unheard = say_hello(edge) or behind(edge.site)
    seen = observe(edge, unheard, unfit)
    decision = decide(seen.snapshot, limits(edge.site))
    decision = undone(decision, act(edge, decision, seen))
    if decision != edge.decision:
        edge.book.decided(edge.clock(), edge.site.site, decision)
        _log(edge, decision)
        edge.decision = decision
    _afterwards(edge, seen)
    _mark(edge)
    if edge.clock() - edge.tidied > TIDY_S:
        edge.tidied = edge.clock()
        tidy(edge)
    return decision


def run(edge: Edge, stop: threading.Event, *, standby: bool = False) -> None:
    """Cycle until told to stop. Workers stay: the next edge adopts them. A standby takes the site when
    the edge that has it falls silent, and waits again if it is taken from it."""
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
    tell(edge)


def _drain(edge: Edge) -> None:
    unheard = say_hello(edge) or behind(edge.site)
    seen = observe(edge, unheard)
    decision = Decision(submit={}, drain=len(seen.rows), binding=_LEAVING, bounds=(_LEAVING,))
    act(edge, decision, seen)
    _afterwards(edge, seen)
    _mark(edge)


class _Turns:
    """Cycles of an edge, one after the other, whatever stops one of them: the next begins where it ended,
    and what does not recover is left for `status` and `doctor` to tell."""

    def __init__(self, edge: Edge, name: str) -> None:
        self._edge = edge
        self._loops = Loops(edge.log)
        self._loop = self._loops.add(name)
        self._teller = Teller(edge.state, self._loops, edge.log)

    def do(self, cycle: Callable[[], object]) -> float:
        """Do one; how many seconds to wait for the next. Raises SiteTaken."""
        pause_s = 0.0
        try:
            cycle()
        except SiteTaken:
            raise
        except BookUnwritable as error:  # nothing is done that the book could not take first
            pause_s = self._loops.note(self._loop, error)
        except Exception as error:  # noqa: BLE001 -- an edge that ends lets the site run empty
            pause_s = self._loops.note(self._loop, error)
            self._remember()
        else:
            self._loop.turned(None)
        self._teller.tell()
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
    except OSError as error:  # no descriptor, no room on the disk
        edge.log.warning("cycle_not_marked", reason=str(error))


def _afterwards(edge: Edge, seen: Seen) -> None:
    """Dead pilots' own reports first, then the news that they are dead: the news puts their jobs back
    into the queue, also those that had finished."""
    recover(edge, seen)
    if edge.recovery is None and not seen.snapshot.unheard:
        tell(edge)


def say_hello(edge: Edge) -> str:
    """Take or renew the site's lease in time; why not, if there is no word from the dispatcher."""
    if edge.clock() < edge.lease_until:
        return ""
    ask = m.Hello(
        site=edge.site.site,
        instance=edge.book.instance(),
        slots=edge.slots(),
        online=edge.site.policy.status == "online",
    )
    edge.refused = False
    try:
        welcome = edge.upstream.hello(ask)
    except Refused as error:
        edge.refused = error.status in (401, 403)
        if error.status == 409 and authority.known(error, edge.book.meta("giver") or error.giver):
            raise SiteTaken(
                error.message,
                remedy=f"{error.remedy}; if that was this edge, its {edge.book.path} is not the one it had",
            ) from None
        return str(error)
    except WireError as error:
        return str(error)
    if why := edge.stranger(welcome.giver):
        return why
    edge.book.claim(edge.site.site)
    edge.epoch, edge.lease_s = welcome.epoch, welcome.lease_s
    edge.lease_until = edge.clock() + welcome.lease_s / 3
    return ""


def limits(site: Site) -> Limits:
    """What the site allows, as the decision takes it."""
    scaling = site.scaling
    ratio, budget = scaling.queued_ratio, scaling.budget
    return Limits(
        total=scaling.max_total,
        queued=scaling.max_queued,
        per_cycle=scaling.per_cycle,
        floor=scaling.floor,
        max_shrink=percent(site.policy.max_shrink),
        queued_ratio=ratio.of_running if ratio else None,
        queued_floor=ratio.floor if ratio else 0,
        attenuation=scaling.attenuation,
        cores=scaling.max_cores,
        memory_mb=None if scaling.max_memory is None else size_mb(scaling.max_memory),
        node_hours=budget.node_hours * percent(budget.stop_at) if budget else None,
    )


@contextmanager
def sole(state: Path, site: str) -> Iterator[None]:
    """Be the only edge with this state directory, on this machine."""
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
    for _ in range(5):  # `status` may hold it for a moment, only to see whether it is held
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
