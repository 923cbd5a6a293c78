"""A task: steps that turn items into jobs, from its file to each job's specification. Pure.

An item is a value of a list or a range, or a file that a job of another step has made. Items have
numbers in their step, in the order in which they became known; a job takes some that follow one
another.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import Name, Text, Variable
from ailurus.protocol.job import JobSpec
from ailurus.protocol.payloads import ALL, Goal, needed
from ailurus.protocol.submission import check, explained, jobs_from

MOST_STEPS = 100
MOST_LISTED = 100_000
"""Items of a list. A range may have `MOST_ITEMS`."""
MOST_ITEMS = 10_000_000
MOST_TOGETHER = 10_000
"""Items of one job: as many inputs as it may have."""
LONGEST_ITEM = 65_536
"""Characters of one item, as JSON."""

Scalar = str | int | float | bool
Item = Scalar | dict[str, Scalar]
"""A value, or named ones: `{item.NAME}`."""
_Value = Annotated[str, Meta(max_length=LONGEST_ITEM)] | int | float | bool
_Item = _Value | Annotated[dict[Variable, _Value], Meta(max_length=100)]


class TaskState(StrEnum):
    """How a task is. A cancelled or failed one may still have jobs that are being cancelled."""

    SUBMITTING = "submitting"
    """Its items are still coming in."""
    RUNNING = "running"
    PAUSED = "paused"
    """It makes no more jobs; those that it has made go on."""
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verb(StrEnum):
    """What can be done to a task."""

    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    """Try items again that have failed, and those that never began since it was cancelled."""
    FINISH = "finish"
    """Let no more items of lists and ranges begin, and be content with what finishes."""


class UnitState(StrEnum):
    """How items are that go through a job together."""

    READY = "ready"
    """They wait for another job: the one that they had has failed."""
    OPEN = "open"
    """Their job is not final."""
    ENDED = "ended"
    """It is, and its task does not know yet."""
    FINISHED = "finished"
    FAILED = "failed"


UNITS_LEFT = frozenset({UnitState.READY, UnitState.FAILED})
"""What a retry, or another try, begins with."""
ENDED = frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED})
_NOT_YET = {
    "": ("code", "labels"),
    "step": ("copies", "pull", "scout", "wins"),
    "over": ("ask", "dataset"),
    "gate": ("at", "parents", "staged"),
    "job": ("goal", "item_attempts", "payloads"),
}
"""What the language will have, and a dispatcher of this version does not do."""
_OURS = {"depends_on": "over: {outputs: STEP}, or gate: {after: STEP}", "sweep": "over: {list: …}"}
"""Fields of a job that its task sets, and how."""
_PLACE = re.compile(r"(?<!\$)\{(item|items|index)(?:\.([A-Za-z_][A-Za-z0-9_]*))?\}")
_GATE = re.compile(r"(\S+)(?: +(\S+))?")
_KEPT = ("script",)
"""Texts of a job in which braces mean something else."""


_NAMES = {"first": "from", "last": "to"}


class Range(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_NAMES):
    """Whole numbers, the last included."""

    first: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    last: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    step: Annotated[int, Meta(ge=1, le=2**53)] = 1

    @property
    def count(self) -> int:
        """How many they are."""
        return max(0, (self.last - self.first) // self.step + 1)


class Over(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the items of a step come from: one of these."""

    list: Annotated[tuple[_Item, ...], Meta(min_length=1, max_length=MOST_LISTED)] | None = None
    range: Range | None = None
    outputs: Name | Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)] | None = None
    """A step before, or several: each file that one of their finished jobs left is an item."""
    match: Annotated[str, Meta(min_length=1, max_length=400)] = "*"
    """Which of these files, by the names that the jobs know."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The steps whose files are items."""
        if self.outputs is None:
            return ()
        return (self.outputs,) if isinstance(self.outputs, str) else self.outputs


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What must be so before the first job of a step is made."""

    after: Annotated[Text, Meta(min_length=1, max_length=300)]
    """`STEP`, which has to finish; or `STEP 90%` or `STEP 50`: so many of its items."""

    @property
    def step(self) -> str:
        """The step that is waited for."""
        return self.after.partition(" ")[0]

    @property
    def share(self) -> str:
        """How much of it; blank: that it finishes."""
        return self.after.partition(" ")[2].strip()


class Failed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What failures mean to a step."""

    attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    """How many jobs are made for an item, one after the other, until one of them finishes."""
    goal: Goal = ALL
    """How many items must finish so that the step does."""
    abort: Goal = ALL
    """When so many items have failed, the task ends at once; `all`: it never does."""


class TaskStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Turns items into jobs."""

    name: Name
    over: Over
    job: Annotated[dict[Variable, Any], Meta(max_length=100)]
    """A job as in a job file, with `{item}` or `{items}` and `{index}` in its texts."""
    by: (
        Annotated[int, Meta(ge=1, le=MOST_TOGETHER)]
        | Annotated[str, Meta(pattern=r"^all(?!\n)$", max_length=3)]
    ) = 1
    """How many items a job takes."""
    gate: Gate | None = None
    failed: Failed = Failed()


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be done; never changes."""

    task: Name
    steps: Annotated[tuple[TaskStep, ...], Meta(min_length=1, max_length=MOST_STEPS)]
    base: Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=4000)] = "/"
    """The directory against which relative paths in its jobs are read."""


_PARTS: dict[str, type[Struct]] = {"over": Over, "range": Range, "gate": Gate, "failed": Failed}


def task_from(tree: object, base: str = "/") -> Task:
    """The task of a file. `base`: the directory in which it lies. Raises AilurusError with the
    field, as `steps[1].gate.after`."""
    if not isinstance(tree, Mapping) or "task" not in tree:
        raise AilurusError("expected a task", field="task", remedy="see docs/tasks.md")
    _refuse(tree)
    try:
        task = msgspec.convert(_numbers_as_goals({"base": base, **tree}), Task)
        msgspec.json.encode(task)
    except msgspec.ValidationError as error:
        raise _told(error) from None
    except UnicodeEncodeError as error:
        raise AilurusError(
            f"{error.object[error.start]!r} is no character", remedy="write the character itself"
        ) from None
    check_task(task)
    return task


def _told(error: msgspec.ValidationError) -> AilurusError:
    """What msgspec found; of a field that there is not, what the fields there are called."""
    plain = explained(error)
    part = plain.field.rpartition(".")[0].rpartition(".")[2]
    kind = _PARTS.get(part, TaskStep if part.startswith("steps[") else Task)
    return explained(error, known=kind.__struct_encode_fields__)


def _numbers_as_goals(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with `goal: 3` as a text: YAML reads a number."""
    steps = tree.get("steps")
    if not isinstance(steps, list | tuple):
        return tree

    def step(one: Any) -> Any:
        failed = one.get("failed") if isinstance(one, Mapping) else None
        if not isinstance(failed, Mapping):
            return one
        words = {
            word: str(failed[word]) for word in ("goal", "abort") if type(failed.get(word)) is int
        }
        return {**one, "failed": {**failed, **words}}

    return {**tree, "steps": [step(one) for one in steps]}


def _refuse(tree: Mapping[str, Any]) -> None:
    """Raise AilurusError for what a later version will do."""

    def look(part: object, kind: str, where: str) -> None:
        if isinstance(part, Mapping):
            for word in _NOT_YET[kind]:
                if word in part:
                    raise AilurusError(
                        "not yet: this version has no such tasks",
                        field=f"{where}{word}",
                        remedy="leave it out",
                    )

    look(tree, "", "")
    steps = tree.get("steps")
    for nr, step in enumerate(steps if isinstance(steps, Sequence) else ()):
        if not isinstance(step, Mapping):
            continue
        where = f"steps[{nr}]."
        look(step, "step", where)
        for kind in ("over", "gate", "job"):
            look(step.get(kind), kind, f"{where}{kind}.")
        if isinstance(step.get("by"), Mapping):
            raise AilurusError(
                "not yet: items are grouped by their number alone",
                field=f"{where}by",
                remedy="by: 10, or by: all",
            )


def check_task(task: Task) -> None:
    """What must hold in a task beside its form. Raises AilurusError."""
    for nr, step in enumerate(task.steps):
        where = f"steps[{nr}]"
        before = [one.name for one in task.steps[:nr]]
        if step.name in before:
            raise AilurusError(
                f"two steps are called {step.name!r}",
                field=f"{where}.name",
                remedy="name each otherwise",
            )
        _check_over(step, before, f"{where}.over")
        if step.gate is not None:
            _check_gate(step.gate, before, f"{where}.gate.after")
        count = known(step)
        if count is not None:
            for word in ("goal", "abort"):
                share = getattr(step.failed, word)
                try:
                    needed(share, count)
                except AilurusError as error:
                    field = f"{where}.failed.{word}"
                    raise AilurusError(error.message, field=field, remedy=error.remedy) from None
        for word, how in _OURS.items():
            if word in step.job:
                raise AilurusError(
                    "a task's job has none", field=f"{where}.job.{word}", remedy=f"write {how}"
                )
        sample(task, nr)


def _check_over(step: TaskStep, before: Sequence[str], where: str) -> None:
    over = step.over
    found = [name for name in ("list", "range", "outputs") if getattr(over, name) is not None]
    if len(found) != 1:
        raise AilurusError(
            "a step is over one thing", field=where, remedy="`list`, `range` or `outputs`"
        )
    if over.outputs is not None:
        for name in over.sources:
            _check_before(name, before, f"{where}.outputs")
        return
    if over.match != "*":
        raise AilurusError("only outputs have names", field=f"{where}.match", remedy="leave it out")
    count = known(step) or 0
    if not 1 <= count <= MOST_ITEMS:
        raise AilurusError(
            f"{count} items", field=f"{where}.{found[0]}", remedy=f"from 1 to {MOST_ITEMS}"
        )
    if step.by == ALL and count > MOST_TOGETHER:
        raise AilurusError(
            f"{count} items in one job",
            field=f"{where.removesuffix('.over')}.by",
            remedy=f"at most {MOST_TOGETHER}: take them in two steps",
        )
    for nr, item in enumerate(over.list or ()):
        if len(msgspec.json.encode(item)) > LONGEST_ITEM:
            raise AilurusError(
                f"longer than {LONGEST_ITEM} bytes",
                field=f"{where}.list[{nr}]",
                remedy="let it name a file",
            )


def _check_gate(gate: Gate, before: Sequence[str], where: str) -> None:
    if not _GATE.fullmatch(gate.after):
        raise AilurusError("not of the form that is allowed", field=where, remedy="after: STEP 90%")
    _check_before(gate.step, before, where)
    if gate.share:
        try:
            msgspec.convert(gate.share, Goal)
        except msgspec.ValidationError:
            raise AilurusError(
                f"{gate.share!r} is no share", field=where, remedy="STEP 90%, or STEP 50: of items"
            ) from None  # fmt: skip


def _check_before(name: str, before: Sequence[str], where: str) -> None:
    if name not in before:
        has = ", ".join(before) or "there is none"
        raise AilurusError(
            f"no step before is called {name!r}", field=where, remedy=f"before: {has}"
        )


def known(step: TaskStep) -> int | None:
    """How many items a step has; None: that shows while the task runs."""
    if step.over.range is not None:
        return step.over.range.count
    return None if step.over.list is None else len(step.over.list)


def is_item(step: TaskStep, name: str) -> bool:
    """Whether a file of that name, which a job of the step before has left, is an item."""
    return fnmatchcase(name, step.over.match)


def sample(task: Task, nr: int) -> JobSpec:
    """A job as step number `nr` will make them, of its first item. Raises AilurusError."""
    step = task.steps[nr]
    if step.over.range is not None:
        item: Item = step.over.range.first
    elif step.over.list is not None:
        item = step.over.list[0]
    else:
        item = {"name": "1.1.output", "url": "file:///1.1.output"}
    return job_of(task, nr, 0, [item])


def job_of(task: Task, nr: int, index: int, items: Sequence[Item], task_id: int = 0) -> JobSpec:
    """Job number `index` of step number `nr`, which takes these items; its labels name the task by
    its id, and the step. Raises AilurusError with the field, as `steps[1].job.inputs[0]`."""
    step = task.steps[nr]
    where = f"steps[{nr}].job"
    fill = _Filling(index, items, step.by == 1)
    entry = {
        word: value if word in _KEPT else fill.value(value, word, f"{where}.{word}")
        for word, value in step.job.items()
    }
    entry.setdefault("name", f"{task.task}.{step.name}.{index}")
    own = {"task": str(task_id), "step": step.name}
    labels = entry.get("labels") or {}
    if isinstance(labels, Mapping):
        for word in own:
            if word in labels:
                raise AilurusError(
                    "each job of a task has it by itself",
                    field=f"{where}.labels.{word}",
                    remedy="leave it out",
                )
        entry["labels"] = {**labels, **own}
    try:
        (job,) = jobs_from(entry, task.base)
        check((job,))
    except AilurusError as error:
        field = where + error.field.removeprefix("jobs[0]")
        raise AilurusError(error.message, field=field, remedy=error.remedy) from None
    return job


class _Filling:
    """Fills a template in for one job."""

    def __init__(self, index: int, items: Sequence[Item], single: bool) -> None:
        self._index, self._items, self._single = index, items, single

    def value(self, value: Any, word: str, where: str) -> Any:
        """`value` with what its texts name; in a command line each as one word of the shell."""
        if isinstance(value, str):
            return _PLACE.sub(lambda found: self._text(found, word, where), value)
        if isinstance(value, Mapping):
            return {key: self.value(one, word, f"{where}.{key}") for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [
                one
                for nr, part in enumerate(value)
                for one in self._entries(part, word, f"{where}[{nr}]")
            ]
        return value

    def _entries(self, part: Any, word: str, where: str) -> list[Any]:
        """What stands for one entry of a list: an entry `{items}` is replaced by all of them."""
        if part == "{items}" or (part == "{item}" and self._single):
            return [dict(one) if isinstance(one, Mapping) else _written(one) for one in self._items]
        return [self.value(part, word, where)]

    def _text(self, found: re.Match[str], word: str, where: str) -> str:
        name, key = found.groups()
        if name == "index":
            return str(self._index)
        if name == "item" and not self._single:
            raise AilurusError(
                "its jobs take several items each", field=where, remedy="write {items}, or `by: 1`"
            )
        texts = [_named(one, key, where) for one in self._items]
        return " ".join(map(shlex.quote, texts) if word == "command" else texts)


def _named(item: Item, key: str | None, where: str) -> str:
    """What stands for an item in a text: itself, one of its values, or its name."""
    if not isinstance(item, Mapping):
        if key is not None:
            raise AilurusError(
                f"an item is no mapping, and has no `{key}`", field=where, remedy="write {item}"
            )
        return _written(item)
    if (value := item.get(key or "name")) is None:
        has = ", ".join(f"{{item.{one}}}" for one in item)
        raise AilurusError(f"an item has no `{key or 'name'}`", field=where, remedy=has)
    return _written(value)


def _written(value: Scalar) -> str:
    """A value as YAML and JSON write it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
