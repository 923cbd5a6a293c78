"""Items of a step, page by page, with the job of each: a look costs the same whether the step has
ten or a million."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.task import UNITS_LEFT, Item, Range, UnitState
from dispatcher.ports import Tx
from dispatcher.tasks.inputs import STAGED, FileState
from dispatcher.tasks.records import ShownUnit, StepRecord, TaskRecord, shown_units

SCANNED = 2000
"""Units looked at for one page of those that have finished, of which there is no index."""
SLICE_BYTES, VALUES_BYTES = 1 << 18, 1 << 20
"""Of stored items that are decoded to show them: of one slice, and for a page."""
SHOWN = 200
"""Characters of an item."""
_encode = msgspec.json.Encoder().encode
_items = msgspec.json.Decoder(list[Item]).decode


def page(tx: Tx, task: TaskRecord, nr: int, *, state: str, after: int, most: int) -> m.TaskItemPage:
    """Items of step number `nr` that are in a state, or in any if it is blank, after a point."""
    indexed = state in ("", UnitState.OPEN, *UNITS_LEFT)
    looking = most if indexed else SCANNED
    looked = shown_units(tx, task.task_id, nr, state=state, after=after, most=looking)
    units = [one for one in looked if state in ("", one.state)][:most]
    last = None
    if len(units) == most or len(looked) == looking:
        end = units[-1] if len(units) == most else looked[-1]
        last = end.job_id if state == UnitState.OPEN else end.first
    shown = _shown(tx, task.task_id, nr, task.task.steps[nr].over.range, units)
    return m.TaskItemPage(
        items=tuple(
            m.TaskItemRow(
                first=one.first,
                items=one.items,
                item=text,
                state=one.state,
                tries=one.tries,
                job_id=one.job_id,
                reason=one.reason,
            )
            for one, text in zip(units, shown, strict=True)
        ),
        next=last,
    )


def _shown(
    tx: Tx, task_id: int, nr: int, numbers: Range | None, units: Sequence[ShownUnit]
) -> Iterator[str]:
    """The first item of each unit, for people; blank where reading it would cost too much."""
    start, kept, left = 0, list[Item](), VALUES_BYTES
    for unit in units:
        if not unit.items:
            # A job that leases items of a step that is pulled.
            yield ""
            continue
        if numbers is not None:
            yield str(numbers.first + unit.first * numbers.step)
            continue
        if not start <= unit.first < start + len(kept):
            where = {"task_id": task_id, "step": nr, "first": unit.first}
            found = tx.one("task_slice.peek", **where, most=min(left, SLICE_BYTES))
            start, body = found or (0, b"[]")
            kept, left = _items(body), left - len(body)
        at = unit.first - start
        yield _text(kept[at]) if 0 <= at < len(kept) else ""


def _text(item: Item) -> str:
    """An item in a few words: of a file its name."""
    if isinstance(item, dict) and "name" in item:
        item = item["name"]
    text = item if isinstance(item, str) else _encode(item).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def staging(tx: Tx, task: TaskRecord, counts: Sequence[StepRecord]) -> Iterator[m.StepStaging]:
    """How the files are of the steps that have them staged: counted within the cap of each, as a
    data set may have a million."""
    for step, count in zip(task.task.steps, counts, strict=True):
        if (gate := step.staged) is None:
            continue
        found = tx.all("task_file.counts", task_id=task.task_id, step=count.nr)
        files: dict[str, int] = {**dict.fromkeys(STAGED, 0), **dict(found)}
        coming = files[FileState.ASKING] + files[FileState.ASKED] + files[FileState.HERE]
        yield m.StepStaging(
            step=step.name,
            storage=gate.staged,
            listed=max(0, count.coming - coming),
            asked=files[FileState.ASKING],
            staging=files[FileState.ASKED],
            staged=files[FileState.HERE],
            held=files[FileState.HELD],
            most=gate.files,
            held_bytes=count.held_bytes,
        )
