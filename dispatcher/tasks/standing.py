"""What a step of a task may do, by what it says and by how far all steps are. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.payloads import ALL, needed
from ailurus.protocol.task import MOST_TOGETHER, Gate, Task, TaskStep
from dispatcher.tasks.records import StepRecord

MOST_OPEN = 10_000
"""Jobs of a step that are not final: what its user pauses or cancels is not all in the queue, and a
large task stands in nobody's way."""


class Standing(Struct, frozen=True):
    """How a step stands."""

    closed: bool
    """No more items become known."""
    over: bool
    """It will make no more jobs, and none of its jobs is open."""
    good: bool
    """It is over, and enough items have finished."""
    waits: str = ""
    """For what it waits, if it may make no jobs now."""
    stuck: bool = False
    """It never may."""


def standings(task: Task, counts: Sequence[StepRecord], *, finishing: bool) -> list[Standing]:
    """How each step stands. `finishing`: what there is suffices."""
    found: dict[str, Standing] = {}
    number = {step.name: nr for nr, step in enumerate(task.steps)}
    for step, count in zip(task.steps, counts, strict=True):
        closed = all(found[name].over for name in step.over.sources) and (
            finishing or (bool(count.listed) and not count.coming)
        )
        missed = [name for name in step.over.sources if found[name].over and not found[name].good]
        waits, stuck = "", False
        if missed:
            waits, stuck = f"step {missed[0]} has missed its goal", True
        elif (gate := step.gate) is not None and gate.after is not None:
            before = found[gate.step]
            if not _passed(gate, counts[number[gate.step]], before, finishing=finishing):
                stuck = before.over
                waits = _gated(gate, counts[number[gate.step]], stuck=stuck)
        over = not (count.open or count.open_jobs) and (stuck or (closed and not count.waiting))
        good = over and not stuck and (finishing or _enough(step, count))
        found[step.name] = Standing(closed=closed, over=over, good=good, waits=waits, stuck=stuck)
    return list(found.values())


def _passed(gate: Gate, count: StepRecord, before: Standing, *, finishing: bool) -> bool:
    if not gate.share:
        return before.good
    if finishing and before.over:
        return True
    # A share of what is not known yet is none.
    known = before.closed or not gate.share.endswith("%")
    return known and _reached(gate.share, count)


def _reached(share: str, count: StepRecord) -> bool:
    try:
        return count.finished >= needed(share, count.items)
    except AilurusError:
        # More than there are.
        return False


def _enough(step: TaskStep, count: StepRecord) -> bool:
    return _reached(step.failed.goal, count)


def _gated(gate: Gate, count: StepRecord, *, stuck: bool) -> str:
    wanted = f"{gate.share} of step {gate.step}" if gate.share else f"step {gate.step}"
    if stuck:
        return f"step {gate.step} is over, and {wanted} has not finished"
    return f"waits for {wanted}: {count.finished} of {count.items} items have finished"


def aborts(step: TaskStep, count: StepRecord, standing: Standing) -> bool:
    """Whether so much of a step has failed that its task ends."""
    abort = step.failed.abort
    # A share of what is not known yet is none.
    if abort == ALL or not count.failed or (abort.endswith("%") and not standing.closed):
        return False
    try:
        return count.failed >= needed(step.failed.abort, count.items)
    except AilurusError:
        return False


def groups(
    step: TaskStep, first: int, last: int, most: int, *, rest: bool
) -> list[tuple[int, int]]:
    """Which items from `first` up to `last`, that were in no job yet, go into one now: the first of
    each job, and how many. At most so many jobs. `rest`: nothing comes that could join the last."""
    left = last - first
    if step.by == ALL:
        return [(first, left)] if rest and left else []
    size = step.most
    jobs = min(most, -(-left // size) if rest else left // size)
    return [(at, min(size, last - at)) for at in range(first, first + jobs * size, size)]


def groups_by_size(
    files: int, most_bytes: int, sizes: Sequence[int], first: int, most: int, *, rest: bool
) -> list[tuple[int, int]]:
    """The same where a job takes so many files and bytes at most, and one that is larger alone."""
    found, begin, held = list[tuple[int, int]](), 0, 0
    for at, size in enumerate(sizes):
        if at > begin and (at - begin == files or held + size > most_bytes):
            found.append((first + begin, at - begin))
            begin, held = at, 0
        held += size
    full = len(sizes) - begin == files or held >= most_bytes
    if len(sizes) > begin and (rest or full):
        found.append((first + begin, len(sizes) - begin))
    return found[:most]


def too_many(step: TaskStep, count: StepRecord) -> bool:
    """Whether `by: all` would put more items into a job than fit."""
    return step.by == ALL and count.items - count.fresh > MOST_TOGETHER
