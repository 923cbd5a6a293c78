"""Files of data sets on their way to be items of a step: listed, staged where its gate asks for
that, and let go of after the last reader. Each is a row, and nothing is kept elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.task import MOST_STAGING, Item, TaskState, TaskStep, size_of
from dispatcher.ports import KnownFile, Tx
from dispatcher.rules.records import value
from dispatcher.tasks import records
from dispatcher.tasks.records import InputFile, StepRecord, TaskRecord

TOGETHER = 500
"""Files of one commit, and of one question to the catalogue."""
MOST_FILES = 1_000_000
"""Items of all steps of a task: no more files are written down then, but for those listed together
with the last of them."""
RELIST_S = 60.0
"""How often a data set is listed into which more may come."""
STALLED_S = 600.0
"""Staging in which no file has come for so long stands still."""
_encode = msgspec.json.Encoder().encode
_item = msgspec.json.Decoder(dict[str, str | int]).decode


class FileState(StrEnum):
    """How a file of a data set is."""

    LISTED = "listed"
    """It is to be staged."""
    ASKING = "asking"
    """The catalogue is being asked for that."""
    ASKED = "asked"
    """A rule brings it."""
    HERE = "here"
    """It may become an item."""
    HELD = "held"
    """It is one, and staged for it."""
    READ = "read"
    """It need not be staged any more; its rule is to go."""
    DONE = "done"
    """It is an item, and nothing keeps it."""


TO_ASK = frozenset({FileState.LISTED, FileState.ASKING, FileState.ASKED})
"""About which the catalogue is to be asked."""
NOT_YET = TO_ASK | {FileState.HERE}
"""No job may read it yet."""
STAGED = frozenset({FileState.ASKING, FileState.ASKED, FileState.HERE, FileState.HELD})
"""A rule keeps it, or may."""
OVER = frozenset({FileState.READ, FileState.DONE})
"""Its job has ended. Statements name these four, and a test holds them to it."""


def due(tx: Tx, task_id: int, step: int, state: FileState, most: int = TOGETHER) -> list[InputFile]:
    """Files of a step in a state, in the order of their names."""
    return records.files(tx, task_id, step, state, most)


def move(
    tx: Tx, task_id: int, step: int, files: Sequence[InputFile], *, before: str, after: str
) -> None:
    """Have files go from a state to another, as far as they are in it."""
    tx.many(
        "task_file.put",
        (
            {
                "task_id": task_id,
                "step": step,
                "before": before,
                "after": after,
                "name": one.name,
                "item": one.item,
                "body": one.body,
            }
            for one in files
        ),
    )


def add(tx: Tx, task_id: int, nr: int, step: TaskStep, files: Sequence[KnownFile]) -> bool:
    """Write down files that a data set has, as far as they are new and of those that match. Whether
    the task has room for them."""
    counts = records.steps(tx, task_id)
    if not counts or sum(one.items + one.coming for one in counts) > MOST_FILES:
        return False
    place = step.staged.staged if step.staged is not None else ""
    state = FileState.LISTED if place else FileState.HERE
    new = 0
    for file in files:
        name = file.name.partition(":")[2]
        if not fnmatchcase(name, step.over.match):
            continue
        said = {
            "size": file.size,
            "adler32": file.adler32,
            "guid": file.guid,
            "events": file.events,
        }
        item: dict[str, str | int] = {
            "name": name.replace("/", "."),
            "url": file.url or f"rucio://{file.name}",
        }
        item |= {key: value for key, value in said.items() if value is not None and value != ""}
        added = tx.one(
            "task_file.add",
            task_id=task_id,
            step=nr,
            name=file.name,
            state=state,
            size=file.size or 0,
            place=place,
            body=_encode(item),
        )
        new += added is not None
    count = counts[nr]
    records.put_source(tx, task_id, replace(count, coming=count.coming + new))
    return True


def take(tx: Tx, task_id: int, nr: int, count: StepRecord) -> StepRecord | None:
    """Let files that are there be items. How the step is then; None: there were none."""
    files = due(tx, task_id, nr, FileState.HERE)
    if not files:
        return None
    new = [one for one in files if one.item is None]
    items: list[Item] = [dict(_item(one.body)) for one in new]
    tx.many("task_slice.add", records.slices(task_id, nr, count.items, items))
    numbered = [replace(one, item=count.items + at) for at, one in enumerate(new)]
    back = [one for one in files if one.item is not None]
    # Where nothing is staged, nothing is kept.
    state = FileState.HELD if count.held else FileState.DONE
    move(tx, task_id, nr, numbered + back, before=FileState.HERE, after=state)
    after = replace(count, items=count.items + len(new), coming=count.coming - len(new))
    records.put_source(tx, task_id, after)
    return after


def release(
    tx: Tx, task_id: int, nr: int, count: StepRecord, units: Sequence[tuple[int, int]]
) -> StepRecord:
    """Let go of the files of items whose job has ended: the first of each unit, and how many."""
    if not count.held:
        return count
    for first, items in units:
        tx.run("task_file.read", task_id=task_id, step=nr, first=first, items=items)
    # They count until they have gone.
    count = replace(count, cramped=0)
    records.put_source(tx, task_id, count)
    return count


def release_all(tx: Tx, task: TaskRecord) -> None:
    """Let go of all that is staged for a task that has ended."""
    if any(one.held for one in records.steps(tx, task.task_id)):
        tx.run("task_file.let_go", task_id=task.task_id)


def again(tx: Tx, task_id: int, counts: Sequence[StepRecord]) -> None:
    """Have files staged again for what had not begun when its task ended."""
    for count in counts:
        if count.coming:
            tx.run("task_file.unread", task_id=task_id, step=count.nr)
        if count.items > count.fresh:
            left = {"first": count.fresh, "items": count.items - count.fresh}
            tx.run("task_file.again", task_id=task_id, step=count.nr, **left)


def there(tx: Tx, task_id: int, count: StepRecord) -> int:
    """Items up to which all files are there."""
    row = tx.one("task_file.gap", task_id=task_id, step=count.nr, first=count.fresh)
    return value(row, count.items)


# --- staging ---


class Work(Struct, frozen=True):
    """What the catalogue is to be asked about a step."""

    step: TaskStep
    count: StepRecord
    runs: bool
    """Whether more of its files are wanted."""
    asking: tuple[InputFile, ...] = ()
    asked: tuple[InputFile, ...] = ()
    read: tuple[InputFile, ...] = ()
    """Those that need no rule; nobody else has them staged."""


def plan(tx: Tx, task_id: int, nr: int) -> Work | None:
    """What to ask about a step: files are chosen to be staged as far as there is room, and that
    stands here before anybody is asked."""
    task = records.find_task(tx, task_id)
    if task is None:
        return None
    step, count = task.task.steps[nr], records.steps(tx, task_id)[nr]
    runs = task.state is TaskState.RUNNING and not task.finishing
    if step.staged is None:
        return Work(step, count, runs)
    if runs:
        count = _choose(tx, task_id, step, count)
    return Work(
        step,
        count,
        runs,
        asking=tuple(due(tx, task_id, nr, FileState.ASKING)) if runs else (),
        asked=tuple(due(tx, task_id, nr, FileState.ASKED, MOST_STAGING)),
        read=tuple(due(tx, task_id, nr, FileState.READ)),
    )


def _choose(tx: Tx, task_id: int, step: TaskStep, count: StepRecord) -> StepRecord:
    gate = step.staged
    assert gate is not None  # noqa: S101 -- the caller has looked
    room = gate.files - count.held
    files = due(tx, task_id, count.nr, FileState.LISTED, min(TOGETHER, max(1, room)))
    most = None if gate.bytes is None else size_of(gate.bytes)
    chosen, held, held_bytes = [], count.held, count.held_bytes
    for one in files:
        full = held >= gate.files or (most is not None and held_bytes + one.size > most)
        if full and held:
            break
        chosen.append(one)
        held, held_bytes = held + 1, held_bytes + one.size
    move(tx, task_id, count.nr, chosen, before=FileState.LISTED, after=FileState.ASKING)
    on_its_way = any(
        due(tx, task_id, count.nr, state, 1)
        for state in (FileState.ASKING, FileState.ASKED, FileState.HERE, FileState.READ)
    )
    after = replace(
        count, held=held, held_bytes=held_bytes, cramped=int(bool(files) and not on_its_way)
    )
    if after != count:
        records.put_source(tx, task_id, after)
    return after


def others(tx: Tx, task_id: int, nr: int, work: Work) -> frozenset[str]:
    """Which files that this step has read another has staged at the same place."""
    place = work.step.staged.staged if work.step.staged is not None else ""
    return frozenset(
        one.name
        for one in work.read
        if tx.one("task_file.other", name=one.name, place=place, task_id=task_id, step=nr)
    )


def parts(work: Work) -> Iterator[Work]:
    """The same in parts, of which each is asked at once."""
    longest = max(len(work.asking), len(work.asked), len(work.read))
    for at in range(0, longest, TOGETHER):
        end = at + TOGETHER
        yield replace(
            work, asking=work.asking[at:end], asked=work.asked[at:end], read=work.read[at:end]
        )


def told(
    tx: Tx,
    task_id: int,
    nr: int,
    work: Work,
    *,
    here: Mapping[str, str],
    refused: Collection[int],
    kept: Collection[int],
    now: float,
) -> bool:
    """Write down what the catalogue has said: which files are there, and where, if it says so;
    which it `refused` to stage, and which it does not let go, by their places. Whether any came."""
    asked = [one for key, one in enumerate(work.asking) if key not in refused]
    move(tx, task_id, nr, asked, before=FileState.ASKING, after=FileState.ASKED)
    came = [
        replace(one, body=_at(one.body, here[one.name]))
        for one in (*work.asked, *asked)
        if one.name in here
    ]
    move(tx, task_id, nr, came, before=FileState.ASKED, after=FileState.HERE)
    gone = [one for key, one in enumerate(work.read) if key not in kept]
    count = records.steps(tx, task_id)[nr]
    after = count
    for one in gone:
        row = tx.one("task_file.done", task_id=task_id, step=nr, name=one.name)
        if row is not None:
            held_bytes = after.held_bytes - value(row, 0)
            after = replace(after, held=after.held - 1, held_bytes=held_bytes)
    if came or (asked and not work.asked):
        after = replace(after, moved=now)
    if after != count:
        records.put_source(tx, task_id, after)
    return bool(came)


def note(tx: Tx, task_id: int, nr: int, problem: str) -> None:
    """Write down what stands in the way; blank: nothing."""
    steps = records.steps(tx, task_id)
    if steps:
        records.put_source(tx, task_id, replace(steps[nr], problem=problem))


def looked(tx: Tx, task_id: int, nr: int, *, closed: bool, now: float) -> None:
    """Write down that a data set was listed to its end."""
    steps = records.steps(tx, task_id)
    if steps:
        records.put_source(tx, task_id, replace(steps[nr], listed=int(closed), looked=now))


def _at(body: bytes, url: str) -> bytes:
    return _encode({**_item(body), "url": url}) if url else body
