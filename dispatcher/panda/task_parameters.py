"""What a user's panda-client asks for in `task_parameters`, as a task of ours. Pure.

A parameter that we do not carry is refused by its name: one that is passed over in silence gives a
wrong result.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.task import MOST_LISTED, Item, Over, Task, TaskStep
from ailurus.protocol.task_file import check_task

STEP = "run"
LONGEST = 100_000
"""Characters of the job parameters together."""
# What says nothing of how the jobs are made, or what we do anyway.
_IGNORED = frozenset(
    {
        "cliParams",
        "log",
        "nMaxFilesPerJob",
        "noEmail",
        "osInfo",
        "processingType",
        "prodSourceLabel",
        "respectSplitRule",
        "sourceURL",
        "transHome",
        "transUses",
        "uniqueTaskName",
        "userName",
        "vo",
        "workingGroup",
    }
)
_CARRIED = frozenset(
    {
        "container_name",
        "coreCount",
        "currentPriority",
        "jobParameters",
        "maxAttempt",
        "maxWalltime",
        "multiStepExec",
        "nEvents",
        "nEventsPerJob",
        "noInput",
        "ramCount",
        "ramCountUnit",
        "site",
        "taskName",
    }
)
_PREPARE, _COLLECT = "--preprocess ${TRF_ARGS}", "--postprocess ${TRF_ARGS}"
_RUN_IN_CONTAINER = "/bin/sh __run_main_exec.sh"
_TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,149}/?")
_ARCHIVE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}?(\.tar\.gz|\.tgz|\.tar)")
_TEXT = r"""(?P<{0}_q>['"])(?P<{0}>[^'"\\]+)(?P={0}_q)"""
_PAIR = re.compile(rf" *{_TEXT.format('name')}: *{_TEXT.format('target')} *,?")
_PLACE = re.compile(r"\$JEDITASKID|\$\{([^{}]*)\}")
_PLACES = {
    "$JEDITASKID": "task",
    "${SN}": "padded",
    "${SN/P}": "padded",
    "${SEQNUMBER}": "number",
}
"""What stands for a place in a job, by the name of a value of its item."""
_ITEM = ("task", "padded", "number")
_HELP = "see docs/panda-client.md for what is carried"


class Sandbox(Struct, frozen=True):
    """A user's file that travels with the jobs."""

    name: str
    url: str
    size: int


class _Arguments(Struct):
    """What the transform is told."""

    command: str = ""
    archive: str = ""
    directory: str = "."
    outputs: dict[str, str] = {}


def task_name(given: Mapping[str, Any]) -> str:
    """The task's name, without the slash at its end. Raises AilurusError."""
    name = given.get("taskName")
    if not isinstance(name, str) or not _TASK_NAME.fullmatch(name):
        raise AilurusError(
            "expected a name of up to 150 letters, digits and _.:+@=-, with / at most at its end",
            field="taskName",
        )
    return name.removesuffix("/")


def archive(given: Mapping[str, Any]) -> str:
    """The name of the uploaded file that the jobs read; blank: none. Raises AilurusError."""
    _refuse(given)
    return _arguments(given).archive


def task_of(given: Mapping[str, Any], sandbox: Sandbox | None) -> Task:
    """The task that these parameters ask for; its items have the task's id in `task` once it has
    one. Raises AilurusError with the name of the parameter."""
    _refuse(given)
    name, arguments, first = task_name(given), _arguments(given), _first_number(given)
    job: dict[str, Any] = {
        "script": script(arguments),
        "environment": {f"PRUN_{one.upper()}": f"{{item.{one}}}" for one in _ITEM},
        "outputs": [{"name": _as_template(one)} for one in arguments.outputs.values()],
        "network": True,
        **_size(given),
    }
    if sandbox is not None:
        job["inputs"] = [
            {"name": sandbox.name, "url": sandbox.url, "size": sandbox.size, "unpack": True}
        ]
    items: tuple[Item, ...] = tuple(
        {"task": "0", "padded": f"{nr:06}", "number": str(first + nr - 1)}
        for nr in range(1, _count(given) + 1)
    )
    step = TaskStep(name=STEP, over=Over(list=items), job=job)
    task = Task(task=name, steps=(step,))
    check_task(task)
    return task


def numbered(task: Task, number: int) -> Task:
    """The task with its number in its items."""
    (step,) = task.steps
    items: tuple[Item, ...] = tuple(
        {**one, "task": str(number)} for one in step.over.list or () if isinstance(one, dict)
    )
    return msgspec.structs.replace(
        task, steps=(msgspec.structs.replace(step, over=Over(list=items)),)
    )


def _refuse(given: Mapping[str, Any]) -> None:
    """Raise AilurusError for the first parameter that is not carried."""
    for name, value in given.items():
        if name in _CARRIED or name in _IGNORED or value in (None, "", False, [], {}):
            continue
        raise _not_carried(str(name)[:100])
    if given.get("noInput") is not True:
        raise AilurusError(
            "tasks with input data sets are not carried", field="noInput", remedy=_HELP
        )
    steps = given.get("multiStepExec")
    if steps and not (given.get("container_name") and _is_usual(steps, given["container_name"])):
        raise _not_carried("multiStepExec")


def _not_carried(name: str) -> AilurusError:
    return AilurusError("not carried by this dispatcher", field=name, remedy=_HELP)


def _is_usual(steps: Any, container: Any) -> bool:
    """Whether that is what the client says of each task in a container: the command runs in it,
    and we have no need of what goes before and after."""
    try:
        options = steps["containerOptions"]
        return bool(
            set(steps) == {"preprocess", "postprocess", "containerOptions"}
            and steps["preprocess"] == {"command": "${TRF}", "args": _PREPARE}
            and steps["postprocess"] == {"command": "${TRF}", "args": _COLLECT}
            and set(options) == {"containerExec", "containerImage"}
            and options["containerImage"] == container
            and options["containerExec"].endswith(_RUN_IN_CONTAINER)
        )
    except (TypeError, KeyError, AttributeError):
        return False


def _whole(given: Mapping[str, Any], name: str, least: int = 1) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**9:
        raise AilurusError(f"expected a whole number from {least} on", field=name)
    return value


def _count(given: Mapping[str, Any]) -> int:
    """How many jobs."""
    events, each = _whole(given, "nEvents") or 1, _whole(given, "nEventsPerJob") or 1
    count = -(-events // each)
    if count > MOST_LISTED:
        raise AilurusError(
            f"{count} jobs; a task has up to {MOST_LISTED}",
            field="nEvents",
            remedy="let each job do more, or make several tasks",
        )
    return count


def _size(given: Mapping[str, Any]) -> dict[str, Any]:
    """What each job needs, and where it may run."""
    size: dict[str, Any] = {}
    cores = _whole(given, "coreCount")
    if cores is not None:
        size["cores"] = cores
    if memory := _whole(given, "ramCount", 0):
        unit = given.get("ramCountUnit") or "MB"
        if unit not in ("MB", "MBPerCore", "MBPerCoreFixed"):
            raise AilurusError("expected MB, MBPerCore or MBPerCoreFixed", field="ramCountUnit")
        size["memory_mb"] = memory * (1 if unit == "MB" else cores or 1)
    if hours := given.get("maxWalltime"):
        if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= 8760:
            raise AilurusError("expected hours, up to 8760", field="maxWalltime")
        size["walltime_s"] = max(1, round(hours * 3600))
    if (attempts := _whole(given, "maxAttempt")) is not None:
        size["max_attempts"] = min(attempts, 100)
    for name, ours in (("currentPriority", "priority"), ("site", "queue")):
        if given.get(name) is not None:
            size[ours] = given[name]
    if container := given.get("container_name"):
        size["container"] = container
    return size


# --- the job parameters ---------------------------------------------------------------------------


def _parts(given: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any], str]]:
    """The entries of the job parameters with the text of each."""
    entries = given.get("jobParameters")
    if not isinstance(entries, list) or not entries:
        raise AilurusError("expected a list of parameters", field="jobParameters")
    left = LONGEST
    for nr, entry in enumerate(entries):
        text = entry.get("value", "") if isinstance(entry, Mapping) else None
        if not isinstance(text, str):
            raise AilurusError("expected an object with a text", field=f"jobParameters[{nr}]")
        left -= len(text) + 1
        if left < 0 or "\0" in text:
            raise AilurusError(
                f"expected up to {LONGEST} characters, none of them NUL", field="jobParameters"
            )
        yield nr, entry, text


def _line(given: Mapping[str, Any]) -> str:
    """The command line of the transform, with places for what differs from job to job."""
    line = ""
    for nr, entry, text in _parts(given):
        kind = entry.get("param_type") if entry.get("type") == "template" else None
        if kind not in (None, "output", "pseudo_input", "log"):
            raise AilurusError(
                f"a template of kind {str(kind)[:40]} is not carried",
                field=f"jobParameters[{nr}]",
                remedy=_HELP,
            )
        if entry.get("hidden") or text == "__delimiter__":
            continue
        line += text if entry.get("padding") is False else f"{text} "
    return line


def _first_number(given: Mapping[str, Any]) -> int:
    """The number of the first job, `${SEQNUMBER}`."""
    found = {
        offset
        for _, entry, _ in _parts(given)
        if entry.get("param_type") == "pseudo_input"
        for offset in (_whole(entry, "offset", 0),)
    }
    if len(found) > 1:
        raise AilurusError("several numbers that begin differently", field="jobParameters")
    return next(iter(found), None) or 0


def _arguments(given: Mapping[str, Any]) -> _Arguments:
    """What the transform is told, with the places in it. Raises AilurusError."""
    line = _line(given)
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise AilurusError(f"no command line: {error}", field="jobParameters") from None
    told, rest = _Arguments(), iter(words)
    for word in rest:
        value = next(rest, "")
        match word:
            case "--sourceURL":
                pass
            case "-j" if not value:
                pass
            case "-r":
                told.directory = _beneath(value)
            case "-a":
                if not _ARCHIVE.fullmatch(value):
                    raise AilurusError("expected NAME.tar.gz", field="jobParameters: -a")
                told.archive = value
            case "-o":
                told.outputs = _outputs(value)
            case "-p":
                told.command = value
            case _:
                raise AilurusError(
                    f"the argument {word[:100]} is not carried",
                    field="jobParameters",
                    remedy="-l is a build: give --noBuild; " + _HELP,
                )
    if not told.command:
        raise AilurusError("no command: -p is missing", field="jobParameters")
    for text in (told.command, *told.outputs.values()):
        _check_places(text)
    return told


def _beneath(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "$" in path:
        raise AilurusError("expected a directory in the archive", field="jobParameters: -r")
    return path or "."


def _outputs(text: str) -> dict[str, str]:
    """Outputs by the names that the payload gives them. No parser of Python: a deep text could end
    the process."""
    found, at, whole = {}, 1, text.strip()
    while pair := _PAIR.match(whole, at):
        found[pair["name"]] = pair["target"]
        at = pair.end()
    if whole[:1] != "{" or whole[at:] != "}" or any(map(_is_odd, found.items())):
        raise AilurusError(
            "expected {'NAME': 'NAME OF OUTPUT'}, in the job's directory",
            field="jobParameters: -o",
        )
    return found


def _is_odd(pair: tuple[str, str]) -> bool:
    """Whether these are no names of an output in a job's directory, and at its storage."""
    name, target = pair
    bare = _PLACE.sub("", target)
    return name.startswith(("/", "-")) or ".." in name.split("/") or bool(set("{}*/") & set(bare))


def _check_places(text: str) -> None:
    for place in _PLACE.finditer(text):
        if place[0] not in _PLACES:
            raise AilurusError(
                f"{place[0][:60]} is not carried", field="jobParameters", remedy=_HELP
            )


def _as_template(text: str) -> str:
    """A name with its places as those of our templates."""
    return _PLACE.sub(lambda place: f"{{item.{_PLACES[place[0]]}}}", text)


def _quoted(text: str, *, plain: bool = False) -> str:
    """A text as a word of the shell, its places as variables; `plain`: it is written with %XX."""
    words, at = [], 0
    for place in _PLACE.finditer(text):
        words += [text[at : place.start()], f'"$PRUN_{_PLACES[place[0]].upper()}"']
        at = place.end()
    words.append(text[at:])
    for nr in range(0, len(words), 2):
        word = unquote(words[nr]) if plain else words[nr]
        words[nr] = shlex.quote(word) if word else ""
    return "".join(words) or "''"


def _globbed(name: str) -> str:
    """A file's name as a word of the shell, in which * stays what it is."""
    return "*".join(shlex.quote(one) if one else "" for one in name.split("*"))


def script(arguments: _Arguments) -> str:
    """The transform: what PanDA's runGen does, without a program to be fetched. It needs a shell,
    and tar for an output with a * in its name."""
    lines = ["#!/bin/sh", "top=$PWD"]
    if arguments.archive:
        ending = _ARCHIVE.fullmatch(arguments.archive)
        directory = arguments.archive.removesuffix(ending[1] if ending else "")
    else:
        directory = "."
    where = shlex.quote(f"./{directory}/{arguments.directory}")
    lines += [
        f"cd {where} || exit 1",
        f"sh -c {_quoted(arguments.command, plain=True)}",
        "code=$?",
        '[ "$code" = 0 ] || exit "$code"',
        *_collected(arguments.outputs),
        "exit 0",
    ]
    return "\n".join(lines) + "\n"


def _collected(outputs: Mapping[str, str]) -> Sequence[str]:
    lines = []
    for name, target in outputs.items():
        to = f'"$top"/{_quoted(target)}'
        if "*" in name:
            lines.append(f"tar -czf {to} -- {_globbed(name)} || exit 1")
        else:
            lines.append(
                f"mv -- {shlex.quote(name)} {to} || "
                f"{{ echo {shlex.quote(f'there is no output {name}')} >&2; exit 1; }}"
            )
    return lines
