"""PanDA's names for a job, as one table.

`panda_update` has the names of an update.

Two spellings travel: *legacy* (`/server/panda/`, all values text) and *v1* (`/api/v1/`, JSON). A
job has the same keys in both; an update has a name in each. Reading is lenient as PanDA's clients
need it: text or number, `NULL`, `None`, blanks. What PanDA has no key for rides in `jobPars`, for
the transform.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from ailurus.protocol.job import LOG, InputFile, JobSpec, OutputFile
from ailurus.protocol.resources import Shape
from ailurus.protocol.trees import is_listed
from ailurus.protocol.url import Url

TRANSFORM = "runailurus"
"""The script that runs our jobs in another pilot (docs/panda.md)."""
# Bytes of a specification, unpacked.
LONGEST_REST = 4_000_000
NOTHING = frozenset({"", "NULL", "None", "null"})


def number(value: object) -> int | None:
    """A whole number, however it is written; None if there is none."""
    if isinstance(value, str):
        if value.strip() in NOTHING or len(value) > 40:
            return None
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, float):
        # NaN and infinity compare false.
        return int(value) if abs(value) < 2**63 else None
    # True is an int.
    return int(value) if isinstance(value, int) and abs(value) < 2**63 else None


def text(value: object) -> str:
    """Text, blank where PanDA says `NULL`."""
    shown = "" if value is None else str(value)
    return "" if shown in NOTHING else shown


def listing(value: object) -> list[str]:
    """A positional comma list."""
    return text(value).split(",") if text(value) else []


# --- jobs -----------------------------------------------------------------------------------------


class Key(Struct, frozen=True):
    """A key of the job dictionary, in the order in which a PanDA server writes it."""

    name: str
    # The field of `JobSpec` or of `PandaJob` that it carries.
    ours: str = ""
    default: object = "NULL"


JOB = (
    Key("StatusCode", default=0),
    Key("PandaID", "job_id"),
    Key("prodSourceLabel", "label"),
    Key("swRelease"),
    Key("homepackage"),
    Key("transformation", "transformation"),
    Key("jobName", "name"),
    Key("jobDefinitionID", default=1),
    Key("cloud", default="WORLD"),
    Key("inFiles", "inputs", default=""),
    Key("dispatchDblock", default=""),
    Key("dispatchDBlockToken", default=""),
    Key("dispatchDBlockTokenForOut", default=""),
    Key("outFiles", "outputs"),
    Key("destinationDblock", "outputs"),
    Key("destinationDBlockToken", default=""),
    Key("prodDBlocks", "inputs", default=""),
    Key("prodDBlockToken", default=""),
    Key("realDatasets", "outputs"),
    Key("realDatasetsIn", "inputs", default=""),
    Key("fileDestinationSE", "outputs"),
    Key("logFile", "log_storage"),
    Key("logGUID"),
    Key("jobPars", "the rest of the specification"),
    Key("attemptNr", "attempt_nr"),
    Key("GUID", "inputs", default=""),
    Key("checksum", "inputs", default=""),
    Key("fsize", "inputs", default=""),
    Key("scopeIn", "inputs", default=""),
    Key("scopeOut", "outputs"),
    Key("scopeLog", "owner"),
    Key("ddmEndPointIn", "inputs", default=""),
    Key("ddmEndPointOut", "storage"),
    Key("destinationSE", "queue"),
    Key("prodUserID", "owner"),
    Key("maxCpuCount", default=0),
    Key("minRamCount", "memory_mb"),
    Key("maxDiskCount", "disk_mb"),
    Key("cmtConfig", default=""),
    Key("processingType", default="ailurus"),
    Key("transferType", default=""),
    Key("sourceSite"),
    Key("currentPriority", "priority"),
    Key("taskID", default=1),
    Key("coreCount", "cores"),
    Key("jobsetID"),
    Key("reqID"),
    Key("nucleus"),
    Key("maxWalltime", "walltime_s"),
    Key("resource_type", "the shape"),
    Key("ioIntensity", default=None),
    Key("ioIntensityUnit", default=None),
    Key("nSent", "attempt_nr"),
)
"""`container_name`, `allowNoOutput` and `loopingCheck` (false) follow where a job has them."""
_EXTRA = "panda"
_NAMED = ("name", "cores", "memory_mb", "disk_mb", "priority", "walltime_s")


class PilotInput(Struct, frozen=True, kw_only=True):
    """A file of Rucio that a PanDA pilot stages in, for the input `of` that names it."""

    of: str
    scope: str
    lfn: str
    # Bytes; None: not known.
    size: int | None = None
    adler32: str = ""
    guid: str = ""
    dataset: str = ""
    """`scope:name` that the input names, if it is a data set: then the input is a directory."""


class PandaJob(Struct, frozen=True, kw_only=True):
    """An attempt as a PanDA server hands it out: the specification and what belongs to it."""

    job_id: int
    attempt_nr: int
    spec: JobSpec
    owner: str = "ailurus"
    label: str = "managed"
    transformation: str = TRANSFORM
    # The queue of the pilot that gets it.
    queue: str = ""
    # Arguments of the transform; blank: as `packed` makes them.
    parameters: str = ""
    storage: str = ""
    """For what the pilot stages out; blank: there is none."""
    log_storage: str = ""
    """For the log; blank: none is kept."""
    place: str = ""
    """The directory in which the transform leaves what goes neither to Rucio nor to a place of its
    own; blank: the pilot stages it out."""
    mark: str = ""
    """Of the dispatcher's store, in names of Rucio."""
    rucio: bool = False
    """Whether the pilot moves files by Rucio: `storage` is one there."""
    inputs: tuple[PilotInput, ...] = ()
    """What the pilot stages in."""


class Extra(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the transform needs to know beside the specification of the job."""

    mark: str = ""
    rucio: bool = False
    """Whether the pilot takes outputs to Rucio's storage."""
    place: str = ""
    staged: dict[str, str | list[str]] = {}
    """Inputs that the pilot has staged in, by name: under which name in the job's directory; those
    of a data set: all of them."""


def lfn(job_id: int, attempt_nr: int, name: str, mark: str = "") -> str:
    """The logical name of an output: as our own pilots name it in storage, so that none collide.
    `mark`: of the store, if it goes to Rucio."""
    numbered = f"{job_id}.{attempt_nr}.{name}"
    return f"{mark}.{numbered}" if mark else numbered


def lfn_of(job_id: int, attempt_nr: int, file: OutputFile, mark: str) -> str:
    """The logical name of an output, wherever it goes."""
    return lfn(job_id, attempt_nr, file.name, mark if file.scope else "")


def staged_by_pilot(job: PandaJob) -> list[OutputFile]:
    """The outputs that a PanDA pilot stages out: those without a place of their own."""
    return [file for file in job.spec.outputs if not file.url and (file.scope or not job.place)]


def extra_of(job: PandaJob) -> Extra:
    """The transform's part of a job; all of it blank for a job without data in Rucio."""
    staged: dict[str, str | list[str]] = {}
    for file in job.inputs:
        if file.dataset:
            together = staged.setdefault(file.of, [])
            assert isinstance(together, list)  # noqa: S101 -- one data set an input
            together.append(file.lfn)
        else:
            staged[file.of] = file.lfn
    named = any(file.scope for file in job.spec.outputs)
    return Extra(
        mark=job.mark if named else "",
        rucio=job.rucio and named,
        place=job.place,
        staged=staged,
    )


def check_plain(spec: JobSpec) -> None:
    """Raise ValueError for a job with files that only our own pilot can move: PanDA's stage single
    files of plain names."""
    for kind, files in (("input", spec.inputs), ("output", spec.outputs)):
        for file in files:
            odd = "/" in file.name or "*" in file.name
            if isinstance(file, InputFile) and not odd:
                odd = file.unpack or (bool(file.url) and is_listed(Url.parse(file.url)))
            if odd:
                raise ValueError(
                    f"{kind} {file.name} is no single file of a plain name; let native pilots serve "
                    "its queue"
                )


def job_dictionary(job: PandaJob) -> dict[str, Any]:
    """The job as a PanDA server would hand it out. Raises ValueError for one that it cannot."""
    spec = job.spec
    check_plain(spec)
    scope = "user." + "".join(c if c.isalnum() or c in "_-" else "_" for c in job.owner)
    files = staged_by_pilot(job)
    log = lfn(job.job_id, job.attempt_nr, LOG) if job.log_storage else ""
    outputs = [lfn_of(job.job_id, job.attempt_nr, file, job.mark) for file in files]
    of_job = f"{scope}.{job.job_id}"
    datasets = [file.dataset or of_job for file in files]
    if log:
        outputs.append(log)
        datasets.append(of_job)
    each = len(outputs)
    values: dict[str, Any] = {
        "PandaID": job.job_id,
        "prodSourceLabel": job.label,
        "transformation": job.transformation,
        "jobName": spec.name,
        "outFiles": ",".join(outputs),
        "destinationDblock": ",".join(f"{one}_sub1" if one == of_job else one for one in datasets),
        "dispatchDBlockTokenForOut": ",".join(["NULL"] * each),
        "destinationDBlockToken": ",".join(["NULL"] * each),
        "realDatasets": ",".join(datasets),
        "fileDestinationSE": ",".join([job.queue] * each),
        "ddmEndPointOut": ",".join([job.storage] * len(files) + [job.log_storage] * bool(log)),
        "logFile": log,
        "scopeOut": ",".join(file.scope or scope for file in files),
        "scopeLog": scope,
        "jobPars": job.parameters or packed(job),
        "attemptNr": job.attempt_nr,
        "destinationSE": job.queue,
        "prodUserID": job.owner,
        "minRamCount": spec.memory_mb,
        "maxDiskCount": spec.disk_mb,
        "currentPriority": spec.priority,
        "coreCount": spec.cores,
        "maxWalltime": spec.walltime_s or 0,
        "resource_type": resource_type(spec.cores, spec.memory_mb),
        "nSent": job.attempt_nr,
        **_columns(job),
    }
    dictionary = {key.name: values.get(key.name, key.default) for key in JOB}
    if spec.container:
        dictionary["container_name"] = spec.container
    if spec.looping_s == 0:
        dictionary["loopingCheck"] = False
    spare = [file for file in files if file.optional]
    if spare:
        dictionary["allowNoOutput"] = ",".join(
            lfn_of(job.job_id, job.attempt_nr, file, job.mark) for file in spare
        )
    return dictionary


def _columns(job: PandaJob) -> dict[str, str]:
    """What the dictionary says of the inputs that the pilot stages in. Raises ValueError for what
    it could not say."""
    names = [file.lfn for file in job.inputs]
    if len(set(names)) < len(names):
        raise ValueError("two of its inputs have files of the same name")
    if not names:
        return {}
    return {
        "inFiles": ",".join(names),
        "scopeIn": ",".join(file.scope for file in job.inputs),
        "fsize": ",".join(str(file.size or 0) for file in job.inputs),
        "checksum": ",".join(f"ad:{one.adler32}" if one.adler32 else "" for one in job.inputs),
        "GUID": ",".join(file.guid for file in job.inputs),
        "realDatasetsIn": ",".join(file.dataset for file in job.inputs),
        "prodDBlocks": ",".join(file.dataset for file in job.inputs),
        "ddmEndPointIn": ",".join([job.storage] * len(names)),
    }


def packed(job: PandaJob) -> str:
    """The transform's arguments: which attempt, and all of the job that PanDA has no key for.

    One shell word each, of characters that no shell, URL or option reader touches.
    """
    rest = {k: v for k, v in msgspec.to_builtins(job.spec).items() if k not in _NAMED}
    if extra := msgspec.to_builtins(extra_of(job)):
        rest[_EXTRA] = extra
    data = base64.urlsafe_b64encode(zlib.compress(msgspec.json.encode(rest), 9)).decode()
    return f"-n {job.job_id}.{job.attempt_nr} -j {data}"


def body(job: PandaJob) -> bytes:
    """The same of a job that is too long for a command line."""
    whole = msgspec.to_builtins(job.spec)
    if extra := msgspec.to_builtins(extra_of(job)):
        whole[_EXTRA] = extra
    return msgspec.json.encode(whole)


def read_body(whole: Mapping[str, Any]) -> tuple[JobSpec, Extra]:
    """What `body` made. Raises ValueError."""
    rest = dict(whole)
    try:
        extra = msgspec.convert(rest.pop(_EXTRA, {}), Extra)
        return msgspec.convert(rest, JobSpec), extra
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def unpacked(parameters: str) -> dict[str, Any]:
    """What `packed` put into `jobPars`. Raises ValueError for arguments of another transform."""
    words = parameters.split()
    if len(words) != 4 or words[0] != "-n" or words[2] != "-j":
        raise ValueError("these are no parameters of our transform")
    engine = zlib.decompressobj()
    try:
        data = engine.decompress(base64.urlsafe_b64decode(words[3]), LONGEST_REST)
    except (zlib.error, ValueError) as error:
        raise ValueError(f"jobPars cannot be unpacked: {error}") from None
    if engine.unconsumed_tail:
        raise ValueError("jobPars unpack to more than a job may be")
    try:
        rest = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"jobPars hold no job: {error}") from None
    if not isinstance(rest, dict):
        raise ValueError("jobPars hold no job")  # noqa: TRY004 -- one error for what is not ours
    return rest


def read_job(dictionary: Mapping[str, object]) -> PandaJob:
    """The attempt in a dictionary that `job_dictionary` made, from JSON or text. Raises
    ValueError."""
    parameters = str(dictionary.get("jobPars", ""))
    fields: dict[str, Any] = {
        "cores": number(dictionary.get("coreCount")) or 1,
        "memory_mb": number(dictionary.get("minRamCount")) or 1,
        "disk_mb": number(dictionary.get("maxDiskCount")) or 1,
        "walltime_s": number(dictionary.get("maxWalltime")) or None,
        "priority": number(dictionary.get("currentPriority")) or 0,
    }
    name = str(dictionary.get("jobName", ""))
    spec, extra = read_body({**unpacked(parameters), **fields, "name": name})
    storages = listing(dictionary.get("ddmEndPointOut"))
    log = text(dictionary.get("logFile"))
    return PandaJob(
        job_id=number(dictionary.get("PandaID")) or 0,
        attempt_nr=number(dictionary.get("attemptNr")) or 0,
        spec=spec,
        owner=str(dictionary.get("prodUserID", "")),
        label=text(dictionary.get("prodSourceLabel")),
        transformation=text(dictionary.get("transformation")),
        queue=text(dictionary.get("destinationSE")),
        parameters=parameters,
        storage=storages[0] if storages[: -1 if log else None] else "",
        log_storage=storages[-1] if log and storages else "",
        place=extra.place,
        mark=extra.mark,
        rucio=extra.rucio,
    )


def to_text(dictionary: Mapping[str, object]) -> str:
    """A dictionary in the legacy spelling: URL-encoded, all values text."""
    return urlencode({name: str(value) for name, value in dictionary.items()})


# --- resource types -------------------------------------------------------------------------------

# MB for each core; a job with more is HIMEM.
RAM_PER_CORE = 2000
RESOURCE_TYPES = (
    ("SCORE", 1, 1, None, RAM_PER_CORE),
    ("SCORE_HIMEM", 1, 1, RAM_PER_CORE + 1, None),
    ("MCORE", 2, None, None, RAM_PER_CORE),
    ("MCORE_HIMEM", 2, None, RAM_PER_CORE + 1, None),
)
_RESOURCE = ("resource_name", "mincore", "maxcore", "minrampercore", "maxrampercore")


def resource_types() -> list[dict[str, Any]]:
    """The resource types as PanDA lists them."""
    return [dict(zip(_RESOURCE, one, strict=True)) for one in RESOURCE_TYPES]


def resource_type(cores: int, memory_mb: int) -> str:
    """PanDA's resource type of a job with so many cores and so much memory."""
    size = "SCORE" if cores <= 1 else "MCORE"
    return size if memory_mb <= RAM_PER_CORE * max(1, cores) else f"{size}_HIMEM"


def of_type(shape: Shape, wanted: str) -> bool:
    """Whether a job of that shape is of a resource type. An unknown type has all jobs."""
    known = {name for name, *_ in RESOURCE_TYPES}
    return wanted not in known or resource_type(shape.cores, shape.memory_mb) == wanted
