"""An item that is here, and how it ended."""

from __future__ import annotations

import os

from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemOutcome
from pilot.blame import GUARDIAN_DIED, KILLED, processes
from pilot.node_ports import MemoryLoss
from pilot.ports import JobError, ProcessEnd


class Item(Struct, eq=False):
    """An item that is here."""

    lease: m.ItemLease
    # While it runs.
    node: str = ""
    seat: int = 0
    key: int = 0
    began: float = 0.0
    kill_at: float = float("inf")
    told: bool = False
    # How much of its output has been shown while it ran, and when (monotonic) that was asked for.
    shown: tuple[int, int] = (0, 0)
    shown_at: float = 0.0
    # Why it was killed.
    killed: JobError | None = None


def key_of(item: Item) -> tuple[int, int]:
    return item.lease.index, item.lease.attempt


def exit_code(end: ProcessEnd) -> int:
    return end.exit_code if end.exit_code >= 0 else 128 - end.exit_code


def judged(
    item: Item, end: ProcessEnd, memory: MemoryLoss | None, *, stopped: bool
) -> tuple[ItemOutcome, JobError | None]:
    """How an item ended, and why it did not finish."""
    if end.errno == GUARDIAN_DIED and not end.before:
        why = JobError(Code.INTERNAL, "what it ran in is gone", transient=True)
        return ItemOutcome.LOST, why
    if end.errno:
        why = JobError(
            Code.PAYLOAD_FAILED,
            "no box can be made for it"
            if end.errno == GUARDIAN_DIED
            else f"it cannot be started: {os.strerror(end.errno)}",
            transient=end.before,
        )
        return ItemOutcome.FAILED, why
    if end.exit_code == 0 and item.killed is None:
        return ItemOutcome.FINISHED, None
    if item.killed is not None:
        return ItemOutcome.FAILED, item.killed
    if stopped:
        return ItemOutcome.LOST, JobError(Code.PAYLOAD_FAILED, "its job was stopped")
    if memory is not None and (memory.own or exit_code(end) == KILLED):
        return ItemOutcome.FAILED, _out_of_memory(item, memory)
    how = f"signal {-end.exit_code}" if end.exit_code < 0 else f"exit code {end.exit_code}"
    remedy = ""
    if memory is not None:
        how += f"; meanwhile the kernel killed {processes(memory.kills)} of its job for memory"
        remedy = "if that was one of its own, give its job more `memory`"
    return ItemOutcome.FAILED, JobError(Code.PAYLOAD_FAILED, how, remedy=remedy)


def _out_of_memory(item: Item, memory: MemoryLoss) -> JobError:
    if not memory.own:
        return JobError(
            Code.OUT_OF_MEMORY,
            f"the kernel killed {processes(memory.kills)} of its job for memory: all payloads that "
            "ran there had used up what the job asked for",
            remedy="give each payload its own `memory`, or the job more",
            # Beside others it may fit.
            transient=True,
        )
    asked = f"it asked for {item.lease.spec.memory_mb} MB"
    remedy = "give it more `memory`"
    if memory.used_kb:
        what = f"it used {memory.used_kb >> 10} MB of memory, {asked}"
        return JobError(Code.OVER_MEMORY, what, remedy=remedy)
    what = f"the kernel killed {processes(memory.kills)} of it for memory, {asked}"
    return JobError(Code.OUT_OF_MEMORY, what, remedy=remedy)


def told_begun(item: Item, at: float, host: str) -> m.ItemBegun:
    """That an item runs since `at`, seconds since 1970. `host`: the pilot's."""
    return m.ItemBegun(
        index=item.lease.index,
        attempt=item.lease.attempt,
        at=at,
        host=item.node or host,
        slot=str(item.seat),
    )


def told_end(
    item: Item,
    outcome: ItemOutcome,
    error: JobError | None,
    end: ProcessEnd | None,
    now: float,
    tails: tuple[str, str],
) -> m.ItemEnd:
    """What the dispatcher is told of the end of an item. `end` None: it did not begin; `now`: by
    the clock of people; `tails`: the ends of its stdout and stderr."""
    wall_s = 0.0 if end is None else max(0.0, end.at - item.began)
    usage = None
    if end is not None:
        usage = m.Usage(
            cpu_s=round(end.cpu_s, 4), wall_s=round(wall_s, 4), max_rss_kb=end.max_rss_kb
        )
    return m.ItemEnd(
        index=item.lease.index,
        attempt=item.lease.attempt,
        outcome=outcome,
        exit_code=None if end is None or end.errno else exit_code(end),
        code=0 if error is None else error.code,
        # There is no place of its own for what would help.
        diagnosis="" if error is None else str(error)[:1000],
        transient=error is not None and error.transient,
        started=round(now - wall_s, 3),
        ended=round(now, 3),
        host=item.node,
        slot=str(item.seat or ""),
        usage=usage,
        stdout_tail=tails[0],
        stderr_tail=tails[1],
    )
