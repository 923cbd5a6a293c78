"""A site's workers in numbers, from what the edge has on disk: it needs neither edge nor
dispatcher."""

from __future__ import annotations

import os
import time
from collections import Counter

import msgspec

from ailurus.protocol.units import duration_s
from harvester_edge import machines
from harvester_edge.batch import batch_class
from harvester_edge.book import Book
from harvester_edge.credential import Held, held
from harvester_edge.daemon import began, holder, last_look
from harvester_edge.decide import Decision, Health
from harvester_edge.empties import key
from harvester_edge.loop_status import read
from harvester_edge.site import Site
from harvester_edge.snapshot import limits, period_begin

WORDS = ("pause", "drain")
"""Names of the files in the state directory that say so; an admin may touch and remove them too."""


class SlotStatus(msgspec.Struct, kw_only=True):
    """A slot: its workers by phase, how those ended that are still in the book, how the last ones
    started."""

    slot: str
    queue: str
    phases: dict[str, int]
    endings: dict[str, int] = {}
    health: Health


class StatusAnswer(msgspec.Struct, kw_only=True):
    """What `status --json` prints."""

    site: str
    running: int | None
    """The edge's process."""
    looked: float | None
    paused: bool
    max_total: int
    slots: list[SlotStatus]
    decision: Decision | None
    decided: float | None
    node_hours: float | None = None
    """Of the budget's period that have ended."""
    budget: float | None = None
    down: tuple[str, ...] = ()
    """Loops of edge and relay that do not do their work, and why."""
    loop_failures: dict[str, int] = {}
    wrong_machines: tuple[str, ...] = ()
    """What the site file says of machines and their pilots deny."""
    credentials: tuple[Held, ...] = ()
    """For storage, as pilots have them."""


LEAST_BYTES = 64 * 1024
SILENT_S = 600.0
"""A cycle whose commands all run into their time-outs, and whose dispatcher does not answer, is
shorter."""


def down(site: Site) -> tuple[str, ...]:
    """What edge and relay of the site, while they run, say of loops that do not do their work; and
    whether the edge says nothing at all."""
    findings = tuple(
        f"{who}: {one}"
        for who, state in (("edge", site.state), ("relay", site.relay_state))
        if holder(state) is not None
        for one in read(state).down
    )
    return findings + _full(site) + _stuck(site)


def _full(site: Site) -> tuple[str, ...]:
    """A disk that takes nothing takes no word about it either: it is asked itself."""
    if holder(site.state) is None:
        return ()
    disk = os.statvfs(site.state)
    blocks, inodes = (
        (disk.f_bfree, disk.f_ffree) if os.geteuid() == 0 else (disk.f_bavail, disk.f_favail)
    )
    if blocks * disk.f_frsize >= LEAST_BYTES and (inodes or not disk.f_files):
        return ()
    return (f"edge: the disk of {site.state} is full: make room, and the edge goes on by itself",)


def _stuck(site: Site) -> tuple[str, ...]:
    """An edge that runs and finishes no cycle: stopped, or in a call that does not return."""
    if (process := holder(site.state)) is None:
        return ()
    kind, limits = batch_class(site.backend.kind), site.backend.limits
    poll_s = kind.poll_s if limits.poll is None else duration_s(limits.poll)
    last = max(began(site.state), last_look(site.state) or 0.0)
    silent_s = time.time() - last if last else 0.0
    if silent_s < SILENT_S + 2 * poll_s + 5 * duration_s(limits.command_timeout):
        return ()
    silent = f"edge: process {process} has finished no cycle for {silent_s / 60:.0f} minutes"
    return (
        f"{silent}: is it stopped, or does a file system not answer (paths.state, paths.shared)?",
    )


def glance(site: Site) -> StatusAnswer:
    """Read the book once."""
    book = Book(site.state / "book.sqlite", site=site.site, read_only=True)
    try:
        phases, endings = book.phases(), book.endings()
        names = {name: slot.queue for name, slot in site.slots.items()}
        names |= {slot: "-" for slot, _ in phases if slot not in names}
        last = book.decisions(1)
        health = {slot: _worst(book, slot) for slot in names}
        budget = site.scaling.budget
        wrong = tuple(machines.wrong(book, site, time.time()))
        spent = book.spent(period_begin(budget.period, time.time())) if budget else None
    finally:
        book.close()
    return StatusAnswer(
        site=site.site,
        running=holder(site.state),
        looked=last_look(site.state),
        paused=site.policy.status != "online"
        or any((site.state / name).exists() for name in WORDS),
        max_total=site.scaling.max_total,
        slots=[
            SlotStatus(
                slot=slot,
                queue=queue,
                phases=_of(phases, slot),
                endings=_of(endings, slot),
                health=health[slot],
            )
            for slot, queue in names.items()
        ],
        decision=last[0].decision if last else None,
        decided=last[0].at if last else None,
        node_hours=spent,
        budget=limits(site).node_hours,
        down=down(site),
        wrong_machines=wrong,
        credentials=tuple(held(site, name, time.time()) for name in site.credentials),
        loop_failures={
            f"{who}.{name}": n
            for who, state in (("edge", site.state), ("relay", site.relay_state))
            for name, n in read(state).failures.items()
        },
    )


def _worst(book: Book, slot: str) -> Health:
    """How its last workers started, or left: whichever failed more often."""
    return max(book.health(slot), book.health(key(slot)), key=lambda one: one.failures)


def _of(counts: Counter[tuple[str, str]], slot: str) -> dict[str, int]:
    return {what: n for (of, what), n in counts.items() if of == slot}
