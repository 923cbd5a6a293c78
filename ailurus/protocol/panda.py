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

from ailurus.protocol.job import LOG, JobSpec
from ailurus.protocol.resources import Shape

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
    Key("inFiles", default=""),
    Key("dispatchDblock", default=""),
    Key("dispatchDBlockToken", default=""),
    Key("dispatchDBlockTokenForOut", default=""),
    Key("outFiles", "outputs"),
    Key("destinationDblock", "outputs"),
    Key("destinationDBlockToken", default=""),
    Key("prodDBlocks", default=""),
    Key("prodDBlockToken", default=""),
    Key("realDatasets", "outputs"),
    Key("realDatasetsIn", default=""),
    Key("fileDestinationSE", "outputs"),
    Key("logFile", "storage"),
    Key("logGUID"),
    Key("jobPars", "the rest of the specification"),
    Key("attemptNr", "attempt_nr"),
    Key("GUID", default=""),
    Key("checksum", default=""),
    Key("fsize", default=""),
    Key("scopeIn", default=""),
    Key("scopeOut", "outputs"),
    Key("scopeLog", "owner"),
    Key("ddmEndPointIn", default=""),
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
_NAMED = ("name", "cores", "memory_mb", "disk_mb", "priority", "walltime_s")


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
    # For outputs without a place of their own, and the log; blank: no log is kept.
    storage: str = ""


def lfn(job_id: int, attempt_nr: int, name: str) -> str:
    """The logical name of an output: as our own pilots name it in storage, so that none collide."""
    return f"{job_id}.{attempt_nr}.{name}"


def staged_by_pilot(spec: JobSpec) -> list[str]:
    """Names of the outputs that a PanDA pilot stages out: those without a place of their own."""
    return [file.name for file in spec.outputs if not file.url]


def job_dictionary(job: PandaJob) -> dict[str, Any]:
    """The job as a PanDA server would hand it out."""
    spec = job.spec
    scope = "user." + "".join(c if c.isalnum() or c in "_-" else "_" for c in job.owner)
    names = staged_by_pilot(spec)
    scopes = ",".join([scope] * len(names))
    log = lfn(job.job_id, job.attempt_nr, LOG) if job.storage else ""
    outputs = [lfn(job.job_id, job.attempt_nr, name) for name in names] + [log] * bool(log)
    each = len(outputs)
    values: dict[str, Any] = {
        "PandaID": job.job_id,
        "prodSourceLabel": job.label,
        "transformation": job.transformation,
        "jobName": spec.name,
        "outFiles": ",".join(outputs),
        "destinationDblock": ",".join([f"{scope}.{job.job_id}_sub1"] * each),
        "dispatchDBlockTokenForOut": ",".join(["NULL"] * each),
        "destinationDBlockToken": ",".join(["NULL"] * each),
        "realDatasets": ",".join([f"{scope}.{job.job_id}"] * each),
        "fileDestinationSE": ",".join([job.queue] * each),
        "ddmEndPointOut": ",".join([job.storage] * each),
        "logFile": log,
        "scopeOut": scopes,
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
    }
    dictionary = {key.name: values.get(key.name, key.default) for key in JOB}
    if spec.container:
        dictionary["container_name"] = spec.container
    if spec.looping_s == 0:
        dictionary["loopingCheck"] = False
    spare = [file.name for file in spec.outputs if file.optional and not file.url]
    if spare:
        dictionary["allowNoOutput"] = ",".join(
            lfn(job.job_id, job.attempt_nr, name) for name in spare
        )
    return dictionary


def packed(job: PandaJob) -> str:
    """The transform's arguments: which attempt, and all of the job that PanDA has no key for.

    One shell word each, of characters that no shell, URL or option reader touches.
    """
    rest = {k: v for k, v in msgspec.to_builtins(job.spec).items() if k not in _NAMED}
    data = base64.urlsafe_b64encode(zlib.compress(msgspec.json.encode(rest), 9)).decode()
    return f"-n {job.job_id}.{job.attempt_nr} -j {data}"


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
    try:
        spec = msgspec.convert(
            {**unpacked(parameters), **fields, "name": str(dictionary.get("jobName", ""))}, JobSpec
        )
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return PandaJob(
        job_id=number(dictionary.get("PandaID")) or 0,
        attempt_nr=number(dictionary.get("attemptNr")) or 0,
        spec=spec,
        owner=str(dictionary.get("prodUserID", "")),
        label=text(dictionary.get("prodSourceLabel")),
        transformation=text(dictionary.get("transformation")),
        queue=text(dictionary.get("destinationSE")),
        parameters=parameters,
        storage=(listing(dictionary.get("ddmEndPointOut")) or [""])[-1],
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
