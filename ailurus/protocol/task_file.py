"""From a task file's tree to a task, and what must hold in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.payloads import ALL, Goal, needed
from ailurus.protocol.search import Ask, Stop, check_ask
from ailurus.protocol.submission import explained
from ailurus.protocol.task import (
    LONGEST_ITEM,
    MOST_ITEMS,
    MOST_STAGING,
    MOST_TOGETHER,
    By,
    Failed,
    Gate,
    Over,
    Pull,
    Range,
    Task,
    TaskStep,
    known,
)
from ailurus.protocol.task_jobs import sample, sample_planner

_NOT_YET = {
    "": ("code", "labels"),
    "step": ("copies", "scout", "wins"),
    "by": ("key",),
    "gate": ("at", "parents"),
    "ask": ("intermediate", "prune", "directions"),
    "job": ("goal", "item_attempts"),
}
"""What the language will have, and a dispatcher of this version does not do."""
_OURS = {"depends_on": "over: {outputs: STEP}, or gate: {after: STEP}", "sweep": "over: {list: …}"}
"""Fields of a job that its task sets, and how."""
_OWN = re.compile(r"\{(item|index)\b")
_GATE = re.compile(r"(\S+)(?: +(\S+))?")
_PARTS: dict[str, type[Struct]] = {
    "over": Over,
    "range": Range,
    "ask": Ask,
    "stop": Stop,
    "by": By,
    "gate": Gate,
    "pull": Pull,
    "failed": Failed,
}


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

    _look_for(_NOT_YET[""], tree, "")
    steps = tree.get("steps")
    for nr, step in enumerate(steps if isinstance(steps, Sequence) else ()):
        if not isinstance(step, Mapping):
            continue
        where = f"steps[{nr}]."
        _look_for(_NOT_YET["step"], step, where)
        for kind in ("by", "gate", "job"):
            _look_for(_NOT_YET[kind], step.get(kind), f"{where}{kind}.")
        over = step.get("over")
        if isinstance(over, Mapping):
            _look_for(_NOT_YET["ask"], over.get("ask"), f"{where}over.ask.")


def _look_for(words: Sequence[str], part: object, where: str) -> None:
    """Raise AilurusError if a part of a task has one of these fields."""
    if not isinstance(part, Mapping):
        return
    for word in words:
        if word in part:
            raise AilurusError(
                "not yet: this version has no such tasks",
                field=f"{where}{word}",
                remedy="leave it out",
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
            _check_gate(step, task.steps[:nr], f"{where}.gate")
        if isinstance(step.by, By) and step.over.outputs is None and step.over.dataset is None:
            raise AilurusError(
                "only files have bytes", field=f"{where}.by", remedy="by: 10, or by: all"
            )
        count = known(step)
        if count is not None:
            for word in ("goal", "abort"):
                share = getattr(step.failed, word)
                try:
                    needed(share, count)
                except AilurusError as error:
                    field = f"{where}.failed.{word}"
                    raise AilurusError(error.message, field=field, remedy=error.remedy) from None
        _look_for(_NOT_YET["job"], step.job, f"{where}.job.")
        for word, how in _OURS.items():
            if word in step.job:
                raise AilurusError(
                    "a task's job has none", field=f"{where}.job.{word}", remedy=f"write {how}"
                )
        if step.pulled is not None:
            _check_pull(step, where)
        elif "payloads" in step.job:
            raise AilurusError(
                "only jobs that lease items run them as payloads",
                field=f"{where}.job.payloads",
                remedy="add `pull: 5` to the step, or put its command into the job",
            )
        sample(task, nr)
        sample_planner(task, nr)


def _check_pull(step: TaskStep, where: str) -> None:
    if step.by != 1:
        raise AilurusError(
            "each item that is leased is a payload by itself",
            field=f"{where}.by",
            remedy="leave it out; a range may have a `step`",
        )
    if step.staged is not None:
        raise AilurusError(
            "files that are staged are no leased items",
            field=f"{where}.gate.staged",
            remedy="leave `pull` or `staged` out",
        )
    if step.job.get("outputs"):
        raise AilurusError(
            "outputs belong to the payloads here, as each of them runs once",
            field=f"{where}.job.outputs",
            remedy='payloads: {outputs: ["out-{index}.root"]}',
        )
    payload = step.job.get("payloads")
    if not isinstance(payload, Mapping) or "sweep" in payload:
        raise AilurusError(
            "expected what a payload is, for each item",
            field=f"{where}.job.payloads",
            remedy='payloads: {arguments: ["{item}"]}',
        )
    outputs = payload.get("outputs")
    for nr, output in enumerate(outputs if isinstance(outputs, list | tuple) else ()):
        name = output.get("name") if isinstance(output, Mapping) else output
        if isinstance(name, str) and not _OWN.search(name):
            raise AilurusError(
                f"each payload would leave the same {name!r}, and those of a job share a directory",
                field=f"{where}.job.payloads.outputs[{nr}]",
                remedy="out-{index}.root",
            )


def _check_over(step: TaskStep, before: Sequence[str], where: str) -> None:
    over = step.over
    kinds = ("list", "range", "dataset", "outputs", "ask")
    found = [name for name in kinds if getattr(over, name) is not None]
    if len(found) != 1:
        raise AilurusError(
            "a step is over one thing",
            field=where,
            remedy="`list`, `range`, `dataset`, `outputs` or `ask`",
        )
    if over.outputs is not None:
        for name in over.sources:
            _check_before(name, before, f"{where}.outputs")
        return
    if over.dataset is not None:
        try:
            over.did  # noqa: B018 -- it raises
        except AilurusError as error:
            raise AilurusError(
                error.message, field=f"{where}.dataset", remedy="rucio://scope:name"
            ) from None
        return
    if over.ask is not None:
        _check_search(step, over.ask, where)
        return
    if over.match != "*":
        raise AilurusError("only files have names", field=f"{where}.match", remedy="leave it out")
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


def _check_search(step: TaskStep, ask: Ask, where: str) -> None:
    step_at = where.removesuffix(".over")
    if step.by != 1:
        raise AilurusError(
            "a point has a job of its own", field=f"{step_at}.by", remedy="leave `by` out"
        )
    if step.pull is not None:
        raise AilurusError(
            "points are not leased", field=f"{step_at}.pull", remedy="leave `pull` out"
        )
    if not step.job.get("result"):
        raise AilurusError(
            "a search reads each point's loss from the result of its job",
            field=f"{step_at}.job.result",
            remedy='result: output.json, in which the payload writes {"loss": 0.1}',
        )
    check_ask(ask, f"{where}.ask")


def _check_gate(step: TaskStep, before: Sequence[TaskStep], where: str) -> None:
    gate = step.gate
    assert gate is not None  # noqa: S101 -- the caller has looked
    if (gate.after is None) == (not gate.staged):
        raise AilurusError(
            "a gate waits for one thing",
            field=where,
            remedy="after: STEP 90%, or staged: STORAGE",
        )
    if gate.after is None:
        _check_staged(step, gate, where)
        return
    if not _GATE.fullmatch(gate.after):
        raise AilurusError(
            "not of the form that is allowed", field=f"{where}.after", remedy="after: STEP 90%"
        )
    _check_before(gate.step, [one.name for one in before], f"{where}.after")
    if not gate.share:
        return
    try:
        msgspec.convert(gate.share, Goal)
    except msgspec.ValidationError:
        raise AilurusError(
            f"{gate.share!r} is no share",
            field=f"{where}.after",
            remedy="STEP 90%, or STEP 50: of items",
        ) from None
    count = next(known(one) for one in before if one.name == gate.step)
    if count is not None:
        try:
            needed(gate.share, count)
        except AilurusError:
            raise AilurusError(
                f"step {gate.step} has only {count} items",
                field=f"{where}.after",
                remedy=f"after: {gate.step} {count}, or a share as 90%",
            ) from None


def _check_staged(step: TaskStep, gate: Gate, where: str) -> None:
    if step.over.dataset is None:
        raise AilurusError(
            "only files of a data set are staged",
            field=f"{where}.staged",
            remedy="over: {dataset: rucio://scope:name}",
        )
    if step.by == ALL:
        raise AilurusError(
            "all files of a step would be staged at once",
            field=f"{where}.staged",
            remedy="take some files a job, and merge in another step",
        )
    if isinstance(step.by, int) and step.by > gate.files:
        raise AilurusError(
            f"a job takes {step.by} files, and no more than {gate.files} are staged at once",
            field=f"{where}.files",
            remedy=f"from {step.by} to {MOST_STAGING}",
        )


def _check_before(name: str, before: Sequence[str], where: str) -> None:
    if name not in before:
        has = ", ".join(before) or "there is none"
        raise AilurusError(
            f"no step before is called {name!r}", field=where, remedy=f"before: {has}"
        )
