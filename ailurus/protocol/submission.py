"""From a job file's tree to job specifications, and what must hold among them. Pure."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from ailurus.protocol import machine_file
from ailurus.protocol.did import SCHEME, Did
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import PLAIN_FILE
from ailurus.protocol.file_rules import check_inputs, check_outputs
from ailurus.protocol.forms import form
from ailurus.protocol.job import JobSpec
from ailurus.protocol.launchers import (
    OPTIONS,
    SINGLE,
    check_options,
    named,
)
from ailurus.protocol.panda import NOTHING
from ailurus.protocol.payloads import ALL, Payloads, needed
from ailurus.protocol.program import check_program
from ailurus.protocol.registered import check_registered
from ailurus.protocol.sweeps import swept, unfilled
from ailurus.protocol.trees import can_make, is_listed, is_many, listing
from ailurus.protocol.units import duration_s, size_mb
from ailurus.protocol.url import Url

# Of one submission, as `messages.Submit` allows.
MOST_JOBS = 100_000
PayloadReader = Callable[[object, str], Payloads]
"""Of what stands there, and the field."""
UploadReader = Callable[[Any, str], Any]
"""Of the inputs that stand there, and their field: the same with uploads as URLs."""
_UNITS: dict[
    str, tuple[str, Callable[[Any], float]]
] = {  # how people write it → the field, and how to read it
    "memory": ("memory_mb", size_mb),
    "disk": ("disk_mb", size_mb),
    "walltime": ("walltime_s", lambda text: int(duration_s(text))),
    "estimate": ("estimate_s", duration_s),
    "looping": ("looping_s", duration_s),
}
# The same of an output.
_OF_OUTPUT = {"lifetime": ("lifetime_s", lambda text: int(duration_s(text)))}
_FIELDS = [field.name for field in msgspec.structs.fields(JobSpec)]
_KNOWN = sorted({*_FIELDS, *_UNITS, machine_file.PANDA, "sweep"})
_UNKNOWN = re.compile(r"unknown field `(\w+)`")
_MISSING = re.compile(r"missing required field `(\w+)`")
_PATTERN = re.compile(r" matching regex '(.*)'$")
_BOUND = re.compile(r"(of length )?([<>]=?) (\S+)$")
_WORDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_AT = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")


def jobs_from(
    tree: object,
    base: str = "/",
    payloads: PayloadReader | None = None,
    uploads: UploadReader | None = None,
) -> tuple[JobSpec, ...]:
    """The jobs of a file: one mapping, a list, or `{defaults: …, jobs: […]}`.

    `base` is the directory against which relative paths of inputs and outputs are read; `payloads`
    makes of what a job's `payloads` says the list that is uploaded, `uploads` of its inputs those
    with uploads as URLs. Raises AilurusError with the field, as `jobs[3].inputs[0].adler32`.
    """
    shared: dict[str, Any] = {}
    if isinstance(tree, Mapping) and "jobs" in tree:
        if odd := set(tree) - {"defaults", "jobs"}:
            raise AilurusError("no such key", field=min(map(str, odd)), remedy="`defaults`, `jobs`")
        shared, tree = dict(tree.get("defaults") or {}), tree["jobs"]
    entries = [tree] if isinstance(tree, Mapping) else tree
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise AilurusError("expected a job or a list of jobs", remedy="see docs/jobs.md")
    jobs: list[JobSpec] = []
    for index, entry in enumerate(entries):
        where = f"jobs[{index}]"
        if not isinstance(entry, Mapping):
            raise AilurusError(
                "expected a mapping", field=where, remedy="write `name: …` and `command: …`"
            )
        for one in swept({**shared, **entry}, where):
            if len(jobs) >= MOST_JOBS:
                raise AilurusError(
                    f"more than {MOST_JOBS} jobs",
                    field=where,
                    remedy="make several submissions of them",
                )
            if payloads is not None and one.get("payloads") is not None:
                for field in ("command", "script"):
                    unfilled(one.get(field), one["payloads"], f"{where}.{field}")
                one["payloads"] = payloads(one["payloads"], f"{where}.payloads")
            if uploads is not None and "inputs" in one:
                one["inputs"] = uploads(one["inputs"], f"{where}.inputs")
            jobs.append(_job(one, where, base))
    return tuple(jobs)


def _job(entry: dict[str, Any], where: str, base: str) -> JobSpec:
    fields = measured(entry, _UNITS, where)
    for kind, read in (("inputs", read_input), ("outputs", read_output)):
        fields[kind] = files_of(fields.get(kind), f"{where}.{kind}", base, read)
    if isinstance(fields.get("credentials"), list | tuple):
        fields["credentials"] = [
            {"name": one} if isinstance(one, str) else one for one in fields["credentials"]
        ]
    if isinstance(fields.get("depends_on"), str | int):
        fields["depends_on"] = [fields["depends_on"]]
    # YAML reads `goal: 3` and `N: 3` as numbers.
    if type(fields.get("goal")) is int:
        fields["goal"] = str(fields["goal"])
    for kind in ("environment", "labels"):
        if isinstance(texts := fields.get(kind), Mapping):
            fields[kind] = {k: v if isinstance(v, str) else str(v) for k, v in texts.items()}
    fields |= machine_file.read(fields, where)
    if "launcher" in fields:
        at = f"{where}.launcher"
        fields["launcher"], options = named(fields["launcher"], at)
        if options:
            check_launcher(fields["launcher"], options, f"{at}.{fields['launcher']}")
            fields["launcher_options"] = options
    try:
        job = msgspec.convert(fields, JobSpec)
        msgspec.json.encode(job)
    except msgspec.ValidationError as error:
        raise _as_written(explained(error, where), entry, where) from None
    except UnicodeEncodeError as error:
        # YAML has an escape for half a surrogate pair.
        odd = repr(error.object[error.start])
        name = next(name for name, value in fields.items() if odd[1:-1] in repr(value))
        raise AilurusError(
            f"{odd} is no character",
            field=f"{where}.{name}",
            remedy="write the character itself",
        ) from None
    if job.launcher_options:
        at = f"{where}.launcher.{job.launcher}"
        check_launcher(job.launcher, job.launcher_options, at, job.nodes)
    return job


def _as_written(error: AilurusError, entry: Mapping[str, Any], where: str) -> AilurusError:
    """An error about a field that people may write in another way, in the word that is there."""
    for word, (name, _) in _UNITS.items():
        if error.field == f"{where}.{name}" and word in entry:
            error.field = f"{where}.{word}"
    if isinstance(entry.get("gpus"), Mapping):
        error.field = machine_file.as_written(error.field, where)
    return error


def check_launcher(
    name: str, options: Mapping[str, Any], where: str, nodes: int | None = None
) -> None:
    """Check the options of a launcher that is known here, for a job of so many nodes where that is
    known. Raises AilurusError with the field."""
    try:
        check_options(name, options, nodes)
    except msgspec.ValidationError as error:
        raise explained(error, where, OPTIONS[name].__struct_fields__) from None
    except AilurusError as error:
        field = f"{where}.{error.field}"
        raise AilurusError(error.message, field=field, remedy=error.remedy) from None


def measured(
    entry: Mapping[str, Any], units: Mapping[str, tuple[str, Callable[[Any], float]]], where: str
) -> dict[str, Any]:
    """The fields of an entry, amounts as numbers in the field's unit."""
    fields = dict(entry)
    for word, (name, read) in units.items():
        if word in fields:
            try:
                fields[name] = read(fields.pop(word))
            except AilurusError as error:
                field = f"{where}.{word}"
                raise AilurusError(error.message, field=field, remedy=error.remedy) from None
    return fields


def files_of(files: Any, where: str, base: str, read: Callable[[Url], dict[str, str]]) -> Any:
    if not isinstance(files, list | tuple):
        return files or ()
    units = _OF_OUTPUT if read is read_output else {}

    def entry(one: Any, where: str) -> Any:
        if isinstance(one, str):
            return _short(one, where, base, read)
        return _located(measured(one, units, where), base) if isinstance(one, Mapping) else one

    return [entry(one, f"{where}[{nr}]") for nr, one in enumerate(files)]


def _short(text: str, where: str, base: str, read: Callable[[Url], dict[str, str]]) -> Any:
    """A file in one text: a bare name, or a path or URL whose last name is the file's."""
    if "/" not in text:
        return {"name": text}
    if read is read_output and is_many(text) and not _SCHEME.match(text):
        raise AilurusError(
            f"{text!r} is a path, and stands for many files",
            field=where,
            remedy=f"{{name: {text}{', tree: dataset' if text.endswith('/') else ''}}}, with url: "
            "DIRECTORY if they go elsewhere than the site says",
        )
    try:
        file = read(Url.parse(_url(text, base)))
    except AilurusError as error:
        raise AilurusError(error.message, field=where, remedy=error.remedy) from None
    if not PLAIN_FILE.fullmatch(file["name"]):
        raise AilurusError(
            f"{file['name']!r} cannot be a file's name in the job's directory",
            field=where,
            remedy="name it otherwise there: {name: data.txt, url: …}",
        )
    return file


def read_input(url: Url) -> dict[str, str]:
    name = url.name
    if is_listed(url) and url.scheme != SCHEME:
        # The files of a directory come into one of its name.
        directory, _ = listing(url)
        name = directory.parent.name
    return {"name": name, "url": url.text}


def read_output(url: Url) -> dict[str, str]:
    if url.scheme == SCHEME:
        did = Did.of_url(url)
        return {"name": did.name, "scope": did.scope}
    return {"name": url.name, "url": url.parent.text}


def _located(entry: dict[str, Any], base: str) -> dict[str, Any]:
    if not isinstance(entry.get("url"), str):
        return entry
    return {**entry, "url": _url(entry["url"], base)}


def _url(text: str, base: str) -> str:
    """A URL as it is, or a path as a `file:` URL. `..` is kept: the storage refuses it by name."""
    if not text or _SCHEME.match(text):
        return text
    path = text if text.startswith("/") else posixpath.join(base, text.removeprefix("./"))
    return Url.of_path(path).text


def explained(
    error: msgspec.ValidationError, where: str = "", known: Sequence[str] = ()
) -> AilurusError:
    """What msgspec found, with the field as a path and what would help. `known`: what the fields
    there are called, unless they are a job's."""
    message = str(error)
    path = where
    if at := _AT.search(message):
        message = message[: at.start()]
        path = ".".join(part for part in (where, at[1]) if part)
    remedy = ""
    if unknown := _UNKNOWN.search(message):
        # Of nothing else we know what its fields are called.
        if known := known or (_KNOWN if path.startswith("jobs[") else ()):
            near = difflib.get_close_matches(unknown[1], known, n=1)
            remedy = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
        path, message = ".".join(part for part in (path, unknown[1]) if part), "no such field"
    elif missing := _MISSING.search(message):
        path, message = ".".join(part for part in (path, missing[1]) if part), "missing"
        remedy = "give it"
    elif pattern := _PATTERN.search(message):
        message, remedy = "not of the form that is allowed", form(pattern[1])
    elif message.startswith("Expected `array`"):
        remedy = "a list, also of one: `[…]`"
    elif bound := _BOUND.search(message):
        remedy = f"{'a length of ' if bound[1] else ''}{_WORDS[bound[2]]} {bound[3]}"
    return AilurusError(message, field=path, remedy=remedy)


def check(jobs: Sequence[JobSpec]) -> None:
    """What must hold in and among the jobs of one submission. Raises AilurusError at the first
    fault."""
    names = Counter(job.name for job in jobs)
    outputs = {job.name: _Outputs(job) for job in jobs}
    for index, job in enumerate(jobs):
        where = f"jobs[{index}]"
        programs = bool(job.command.strip()) + bool(job.script.strip())
        _check_payloads(job, where)
        if programs != 1 and (job.payloads is None or programs):
            raise AilurusError(
                f"job {job.name!r} needs one of `command` and `script`",
                field=f"{where}.command",
                remedy="command: one shell line, script: a whole file with its #! line",
            )
        try:
            check_program(job)
        except AilurusError as error:
            field = f"{where}.{error.field}"
            raise AilurusError(error.message, field=field, remedy=error.remedy) from None
        _check_words(job, where)
        machine_file.check(job.gpus, job.gpu_share, job.each_gpu, where)
        if job.launcher_options:
            at = f"{where}.launcher_options"
            check_launcher(job.launcher, job.launcher_options, at, job.nodes)
        if not (job.inputs or job.outputs or job.depends_on):
            continue
        check_inputs(job.inputs, f"{where}.inputs")
        check_outputs(job.outputs, f"{where}.outputs")
        check_registered(job.outputs, f"{where}.outputs")
        parents = [parent for parent in job.depends_on if isinstance(parent, str)]
        for nr, parent in enumerate(job.depends_on):
            if isinstance(parent, str) and names[parent] != 1:
                found = "no job" if not names[parent] else f"{names[parent]} jobs"
                raise AilurusError(
                    f"{found} of this submission is called {parent!r}",
                    field=f"{where}.depends_on[{nr}]",
                    remedy="name one job of the submission, or give a job id",
                )
        for nr, file in enumerate(job.inputs):
            makers = [parent for parent in parents if outputs[parent].make(file.name)]
            if not file.url and not job.depends_on:
                raise AilurusError(
                    f"input {file.name!r} has no url and the job depends on none that could make "
                    "it",
                    field=f"{where}.inputs[{nr}].url",
                    remedy="give a url, or name the job that makes it in depends_on",
                )
            if not file.url and len(makers) != 1 and len(parents) == len(job.depends_on):
                found = "no parent" if not makers else f"{len(makers)} parents"
                raise AilurusError(
                    f"{found} of job {job.name!r} writes {file.name!r}",
                    field=f"{where}.inputs[{nr}].name",
                    remedy="exactly one job in depends_on must have it among its outputs",
                )
    _check_cycles(jobs)


def _check_payloads(job: JobSpec, where: str) -> None:
    if job.payloads is None:
        words = {"goal": job.goal != ALL, "item_attempts": job.item_attempts is not None}
        for word in (word for word, said in words.items() if said):
            raise AilurusError(
                f"{word} is of payloads, and job {job.name!r} has none",
                field=f"{where}.{word}",
                remedy="leave it out, or give the job `payloads`",
            )
        return
    if job.launcher != SINGLE:
        raise AilurusError(
            "payloads are started by themselves, and by no launcher",
            field=f"{where}.launcher",
            remedy="leave it out, or submit a job for each",
        )
    try:
        needed(job.goal, job.payloads.count)
    except AilurusError as error:
        field = f"{where}.{error.field}"
        raise AilurusError(error.message, field=field, remedy=error.remedy) from None


class _Outputs:
    """What a job leaves, to be asked by the jobs that wait for it."""

    def __init__(self, job: JobSpec) -> None:
        self._plain = {file.name for file in job.outputs}
        self._trees = [file for file in job.outputs if is_many(file.name)]
        self._outputs = job.outputs

    def make(self, wanted: str) -> bool:
        """Whether an input of that name may come from here."""
        if wanted in self._plain and not is_many(wanted):
            return True
        some = self._outputs if is_many(wanted) else self._trees
        return any(can_make(file, wanted) for file in some)


def _check_words(job: JobSpec, where: str) -> None:
    """A PanDA client takes these words for no container: the job would run outside."""
    if job.container and job.container in NOTHING:
        raise AilurusError(
            f"{job.container!r} means «nothing» to PanDA",
            field=f"{where}.container",
            remedy="name the image by its path or URL, or leave it out",
        )


def _check_cycles(jobs: Sequence[JobSpec]) -> None:
    graph = {
        job.name: [p for p in job.depends_on if isinstance(p, str)]
        for job in jobs
        if job.depends_on
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        index = next(nr for nr, job in enumerate(jobs) if job.name == error.args[1][0])
        raise AilurusError(
            f"jobs wait for each other in a circle: {circle}",
            field=f"jobs[{index}].depends_on",
            remedy="take one of these dependencies out",
        ) from None
