"""PanDA's names for a pilot's update of its job, as one table that is read in both directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, get_args
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Struct

from ailurus.protocol.job import LOG
from ailurus.protocol.messages import DoneFile
from ailurus.protocol.panda import number, text
from ailurus.protocol.panda_job import PandaAttempt

Spelling = Literal["legacy", "v1"]
STATES = frozenset({"running", "failed", "finished", "holding", "starting", "transferring"})
TIME = "%Y-%m-%d %H:%M:%S"


class Name(Struct, frozen=True):
    """A field of an update, under its two names."""

    legacy: str
    v1: str
    # The type that v1 declares; legacy is text or number.
    kind: type
    # The field of `JobUpdate`.
    ours: str = ""


UPDATE = (
    Name("jobId", "job_id", int, "job_id"),
    Name("state", "job_status", str, "state"),
    Name("jobSubStatus", "job_sub_status", str),
    Name("startTime", "start_time", str, "started"),
    Name("endTime", "end_time", str, "ended"),
    Name("siteName", "site_name", str, "site"),
    Name("node", "node", str, "node"),
    Name("schedulerID", "scheduler_id", str, "scheduler_id"),
    Name("pilotID", "pilot_id", str, "pilot_id"),
    Name("batchID", "batch_id", str, "batch_id"),
    Name("transExitCode", "trans_exit_code", int, "exit_code"),
    Name("pilotErrorCode", "pilot_error_code", int, "code"),
    Name("pilotErrorDiag", "pilot_error_diag", str, "diagnosis"),
    Name("exeErrorCode", "exe_error_code", int, "exe_code"),
    Name("exeErrorDiag", "exe_error_diag", str, "exe_diagnosis"),
    Name("attemptNr", "attempt_nr", int, "attempt_nr"),
    Name("coreCount", "core_count", int, "cores"),
    Name("meanCoreCount", "mean_core_count", int),
    Name("cpuConsumptionTime", "cpu_consumption_time", int, "cpu_s"),
    Name("cpuConsumptionUnit", "cpu_consumption_unit", str),
    Name("cpuConversionFactor", "cpu_conversion_factor", float),
    Name("cpu_architecture_level", "cpu_architecture_level", str),
    Name("nEvents", "n_events", int),
    Name("nInputFiles", "n_input_files", int),
    Name("pilotTiming", "pilot_timing", str, "timing"),
    Name("jobMetrics", "job_metrics", str),
    Name("pilotLog", "pilot_log", str, "log"),
    Name("metaData", "meta_data", str, "job_report"),
    Name("xml", "job_output_report", str, "outputs"),
    Name("stdout", "stdout", str, "stdout"),
    Name("maxRSS", "max_rss", int, "max_rss_kb"),
    Name("maxVMEM", "max_vmem", int),
    Name("maxSWAP", "max_swap", int),
    Name("maxPSS", "max_pss", int, "max_pss_kb"),
    Name("avgRSS", "avg_rss", int, "avg_rss_kb"),
    Name("avgVMEM", "avg_vmem", int),
    Name("avgSWAP", "avg_swap", int),
    Name("avgPSS", "avg_pss", int),
    Name("totRCHAR", "tot_rchar", int),
    Name("totWCHAR", "tot_wchar", int),
    Name("totRBYTES", "tot_rbytes", int, "read_bytes"),
    Name("totWBYTES", "tot_wbytes", int, "write_bytes"),
    Name("rateRCHAR", "rate_rchar", float),
    Name("rateWCHAR", "rate_wchar", float),
    Name("rateRBYTES", "rate_rbytes", float),
    Name("rateWBYTES", "rate_wbytes", float),
    Name("corruptedFiles", "corrupted_files", str),
    Name("grid", "grid", str),
    Name("source_site", "source_site", str),
    Name("destination_site", "destination_site", str),
)


class JobUpdate(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of an update that we use. Blank or None: the update lacks the field."""

    job_id: int | None = None
    state: str = ""
    attempt_nr: int | None = None
    site: str = ""
    node: str = ""
    scheduler_id: str = ""
    pilot_id: str = ""
    batch_id: str = ""
    # Seconds since 1970.
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    code: int | None = None
    diagnosis: str = ""
    exe_code: int | None = None
    exe_diagnosis: str = ""
    cores: int | None = None
    cpu_s: int | None = None
    max_rss_kb: int | None = None
    max_pss_kb: int | None = None
    avg_rss_kb: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    timing: str = ""
    log: str = ""
    job_report: str = ""
    # The JSON text of `ReportedFile` by logical name.
    outputs: str = ""
    stdout: str = ""


_TIMES = ("started", "ended")


def read_update(params: Mapping[str, object], spelling: Spelling) -> JobUpdate:
    """An update from its fields. A value that cannot be read counts as missing."""
    fields: dict[str, Any] = {}
    for theirs, ours, read in _READ[spelling]:
        value = params.get(theirs)
        if value is not None:
            fields[ours] = read(value)
    return JobUpdate(**fields)


def update_fields(update: JobUpdate, spelling: Spelling) -> dict[str, Any]:
    """The fields of an update as PanDA's servers expect them; fields without a value are left
    out."""
    values = msgspec.structs.asdict(update)
    fields: dict[str, Any] = {}
    for name in UPDATE:
        value = values.get(name.ours)
        if value is None or value == "":
            continue
        if name.ours in _TIMES:
            value = datetime.fromtimestamp(value, UTC).strftime(TIME)
        fields[getattr(name, spelling)] = value
    return fields


def moment(value: object) -> float | None:
    """A time: `YYYY-MM-DD HH:MM:SS` in UTC, or seconds since 1970 as Pilot 3 sends them."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        try:
            seconds = _read(str(value)[:19])
        except ValueError:
            return None
    return seconds if math.isfinite(seconds) and 0 < seconds < 2**40 else None


def _reader(name: Name) -> Callable[[object], object]:
    if name.ours in _TIMES:
        return moment
    return number if name.kind is int else text


_READ = {
    spelling: [(getattr(name, spelling), name.ours, _reader(name)) for name in UPDATE if name.ours]
    for spelling in get_args(Spelling)
}


# A job says when it began with each update.
@lru_cache(10_000)
def _read(text: str) -> float:
    return datetime.strptime(text, TIME).replace(tzinfo=UTC).timestamp()


# --- what a final update lists --------------------------------------------------------------------


class ReportedFile(Struct, frozen=True):
    """A file of `xml` or `job_output_report`, which the pilot has staged out and measured."""

    fsize: int | str | None = None
    adler32: str = ""
    md5sum: str = ""
    surl: str = ""
    guid: str = ""
    endpoint: str = ""


_outputs = msgspec.json.Decoder(dict[str, ReportedFile]).decode


def reported_files(report: str) -> dict[str, ReportedFile]:
    """The files of an output report, by logical name. Raises ValueError if it cannot be read."""
    if not report:
        return {}
    try:
        return _outputs(report)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the output report cannot be read: {error}") from None


def outputs_of(
    files: Iterable[DoneFile], job: PandaAttempt
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Files as a final update lists them: outputs by logical name, and those that the pilot stored
    where the job says, which go into the job report."""
    listed: dict[str, dict[str, Any]] = {}
    kept: list[dict[str, Any]] = []
    placed = {file.name for file in job.spec.outputs if file.url} if job.own else set()
    for file in files:
        lfn = job.lfn(file.name)
        if file.name in placed:
            kept.append(
                {"name": file.name, "url": file.url, "size": file.size, "adler32": file.adler32}
            )
        elif lfn:
            guid = job.guid if file.name == LOG else ""
            listed[lfn] = {
                "guid": guid or str(uuid5(NAMESPACE_URL, file.url)).upper(),
                "fsize": file.size,
                "adler32": file.adler32,
                "surl": file.url,
                "endpoint": job.endpoints.get(lfn, ""),
            }
    return listed, kept


class PlacedOutput(Struct, frozen=True):
    """An output that our transform has stored at the URL that the job gives."""

    name: str
    url: str
    size: int
    adler32: str
    absent: bool = False
    """It was optional and was not made. The pilot stages out a line break in its place, since it
    fails a job with a missing or empty output."""


class JobReport(Struct, frozen=True):
    """`jobReport.json` as our transform writes it; a pilot sends it as `metaData`."""

    ailurus: tuple[PlacedOutput, ...] = ()


_report = msgspec.json.Decoder(JobReport).decode


def placed_outputs(report: str) -> tuple[PlacedOutput, ...]:
    """The outputs in a job report; none if it is not our transform's."""
    try:
        return _report(report).ailurus if report else ()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ()
