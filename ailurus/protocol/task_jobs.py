"""The jobs of a task: its steps' templates, filled in with items. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.file_rules import check_inputs, check_outputs
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.item_list import item_from
from ailurus.protocol.job import JobSpec
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.search import Ask, planner_entry, some_point
from ailurus.protocol.submission import check, jobs_from
from ailurus.protocol.task import Item, Scalar, Task
from ailurus.protocol.uploads import Upload

_PLACE = re.compile(r"(?<!\$)\{(item|items|index)(?:\.([A-Za-z_][A-Za-z0-9_]*))?\}")
_KEPT = ("script",)
"""Texts of a job in which braces mean something else."""
MOST_FILLED = 16 * 2**20
"""Characters that a job's places may be filled with, in all: far more than a job may have, and what
a template makes of its items costs no more."""
DEEPEST = 20
"""Lists and mappings of a template within each other."""
_NOT_OF_INPUTS = frozenset({"guid", "events"})
"""What an item may know of a file, beside what a job says of its inputs."""


def sample(task: Task, nr: int) -> JobSpec:
    """A job as step number `nr` will make them, of its first item. Raises AilurusError."""
    step, item = task.steps[nr], _first(task, nr)
    if step.pulled is None:
        return job_of(task, nr, 0, [item])
    job = consumer_of(task, nr, 0, Payloads(list="0", count=1, shared=True))
    payload = payload_of(task, nr, 0, item)
    where = f"steps[{nr}].job"
    if not payload.command and not (job.command or job.script):
        raise AilurusError(
            "a payload needs a program",
            field=f"{where}.command",
            remedy="give the job a `command` or `script`, or its `payloads` a `command`",
        )
    for word, asked, offered in (
        ("cores", payload.cores, job.cores),
        ("memory", payload.memory_mb or 0, job.memory_mb),
        ("gpus", payload.gpus, job.gpus),
    ):
        if asked > offered:
            raise AilurusError(
                f"a payload asks for {asked}, and the job for {offered} on each node",
                field=f"{where}.payloads.{word}",
                remedy="payloads share what their job takes: let it ask for more",
            )
    return job


def _first(task: Task, nr: int) -> Item:
    """The first item of a step, or one as it may be."""
    step = task.steps[nr]
    if step.over.range is not None:
        return step.over.range.first
    if step.over.list is not None:
        return step.over.list[0]
    if step.over.ask is not None:
        return dict(some_point(step.over.ask))
    if step.over.did:
        file: dict[str, Scalar] = {"name": "file", "url": f"rucio://{step.over.did}", "size": 1}
        return file | {"adler32": "0" * 8, "guid": "0" * 32, "events": 1}
    return {"name": "1.1.output", "url": "file:///1.1.output"}


def samples(task: Task) -> list[tuple[str, JobSpec]]:
    """A job of each step, and one as it plans, with the field that says it. Raises AilurusError."""
    found = []
    for nr in range(len(task.steps)):
        found.append((f"steps[{nr}].job", sample(task, nr)))
        if (plans := sample_planner(task, nr)) is not None:
            found.append((f"steps[{nr}].over.ask.job", plans))
    return found


def sample_planner(task: Task, nr: int) -> JobSpec | None:
    """A job as it says points of step number `nr`, without those that it is given; None: no job
    does. Raises AilurusError."""
    ask = task.steps[nr].over.ask
    if ask is None or ask.job is None:
        return None
    job = planner_of(task, nr, 0, wanted=1, points=("0" * 64, 1))
    return msgspec.structs.replace(job, inputs=job.inputs[:-1])


def job_of(task: Task, nr: int, index: int, items: Sequence[Item], task_id: int = 0) -> JobSpec:
    """Job number `index` of step number `nr`, which takes these items; its labels name the task by
    its id, and the step. Raises AilurusError with the field, as `steps[1].job.inputs[0]`."""
    step = task.steps[nr]
    fill = _Filling(index, items, step.by == 1, points=step.over.ask is not None)
    return _job(task, nr, fill, index, task_id)


def consumer_of(task: Task, nr: int, index: int, payloads: Payloads, task_id: int = 0) -> JobSpec:
    """Job number `index` of a step whose items are leased; it has none by itself. Raises
    AilurusError."""
    return _job(task, nr, _Filling(index, (), single=False), index, task_id, payloads)


def payload_of(task: Task, nr: int, index: int, item: Item) -> ItemSpec:
    """The payload that an item of such a step is. Raises AilurusError with the field."""
    where = f"steps[{nr}].job.payloads"
    fill = _Filling(index, [item], single=True)
    template: Mapping[str, Any] = task.steps[nr].job["payloads"]
    entry = {key: fill.value(one, key, f"{where}.{key}") for key, one in template.items()}
    payload = item_from(entry, where, task.base, index)
    check_inputs(payload.inputs, f"{where}.inputs")
    check_outputs(payload.outputs, f"{where}.outputs")
    return payload


def _job(
    task: Task,
    nr: int,
    fill: _Filling,
    index: int,
    task_id: int,
    payloads: Payloads | None = None,
) -> JobSpec:
    step = task.steps[nr]
    where = f"steps[{nr}].job"
    entry = {
        word: value if word in _KEPT else fill.value(value, word, f"{where}.{word}")
        for word, value in step.job.items()
        if word != "payloads"
    }
    return _made(entry, where, task, nr, str(index), task_id, payloads)


def planner_of(
    task: Task, nr: int, index: int, task_id: int = 0, *, wanted: int, points: tuple[str, int]
) -> JobSpec:
    """The job that says the next points of step number `nr`, for the `index`th time, and as many as
    are wanted. `points`: what it is given, by SHA-256 and bytes. Raises AilurusError."""
    ask = task.steps[nr].over.ask
    assert isinstance(ask, Ask)  # noqa: S101 -- the caller has looked
    digest, size = points
    entry = planner_entry(ask, wanted, Upload(digest).url, size)
    where = f"steps[{nr}].over.ask.job"
    if "result" in (ask.job or {}):
        raise AilurusError(
            "a planner's result is next.json", field=f"{where}.result", remedy="leave it out"
        )
    return _made(entry, where, task, nr, f"planner.{index}", task_id)


def _made(
    entry: dict[str, Any],
    where: str,
    task: Task,
    nr: int,
    index: str,
    task_id: int,
    payloads: Payloads | None = None,
) -> JobSpec:
    step = task.steps[nr]
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
        if payloads is not None:
            job = replace(job, payloads=payloads)
        check((job,))
    except AilurusError as error:
        field = where + error.field.removeprefix("jobs[0]")
        raise AilurusError(error.message, field=field, remedy=error.remedy) from None
    return job


class _Filling:
    """Fills a template in for one job."""

    def __init__(
        self, index: int, items: Sequence[Item], single: bool, *, points: bool = False
    ) -> None:
        """`points`: items are points of a search, which are JSON where a text names all of one."""
        self._points = points
        self._index, self._items, self._single = index, items, single
        self._left = MOST_FILLED
        # By key, and whether for the shell: a template may name its items thousands of times.
        self._texts: dict[tuple[str | None, bool], str] = {}

    def value(self, value: Any, word: str, where: str, depth: int = 0) -> Any:
        """`value` with what its texts name; in a command line each as one word of the shell."""
        if isinstance(value, str):
            return _PLACE.sub(lambda found: self._text(found, word, where), value)
        if depth >= DEEPEST:
            raise AilurusError(
                f"more than {DEEPEST} lists and mappings within each other",
                field=where,
                remedy="see docs/jobs.md",
            )
        if isinstance(value, Mapping):
            return {
                key: self.value(one, word, f"{where}.{key}", depth + 1)
                for key, one in value.items()
            }
        if isinstance(value, list | tuple):
            return [
                one
                for nr, part in enumerate(value)
                for one in self._entries(part, word, f"{where}[{nr}]", depth + 1)
            ]
        return value

    def _entries(self, part: Any, word: str, where: str, depth: int) -> list[Any]:
        """What stands for one entry of a list: an entry `{items}` is replaced by all of them."""
        if part == "{items}" or (part == "{item}" and self._single):
            self._spend(len(msgspec.json.encode(self._items)), where)
            if not self._items:
                raise _no_items(where)
            return [
                {key: one for key, one in item.items() if key not in _NOT_OF_INPUTS}
                if isinstance(item, Mapping)
                else _written(item)
                for item in self._items
            ]
        return [self.value(part, word, where, depth)]

    def _text(self, found: re.Match[str], word: str, where: str) -> str:
        name, key = found.groups()
        if name == "index":
            return str(self._index)
        if not self._items:
            raise _no_items(where)
        if name == "item" and not self._single:
            raise AilurusError(
                "its jobs take several items each", field=where, remedy="write {items}, or `by: 1`"
            )
        kind = (key, word == "command")
        if (text := self._texts.get(kind)) is None:
            whole = self._points and key is None
            texts = [
                msgspec.json.encode(one).decode() if whole else _named(one, key, where)
                for one in self._items
            ]
            text = " ".join(map(shlex.quote, texts) if word == "command" else texts)
            self._texts[kind] = text
        self._spend(len(text), where)
        return text

    def _spend(self, characters: int, where: str) -> None:
        """Raise AilurusError once a job is filled with too much."""
        self._left -= characters
        if self._left < 0:
            raise AilurusError(
                f"with its items the job is longer than {MOST_FILLED:,} characters",
                field=where,
                remedy="name the items fewer times, or let a job take fewer",
            )


def _no_items(where: str) -> AilurusError:
    return AilurusError(
        "jobs that lease items have none of their own",
        field=where,
        remedy='payloads: {arguments: ["{item}"]} gives each to the program of its job',
    )


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
