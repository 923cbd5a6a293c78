"""A final update of a PanDA client as the report that the queue takes. Pure.

The checks of PanDA's Adder are made here: every output that the job must have is listed with a
size and a checksum, and nothing is listed that the job does not know.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol import panda
from ailurus.protocol.did import SCHEME, Did
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import LOG, JobSpec, OutputFile
from ailurus.protocol.panda_update import (
    JobUpdate,
    PlacedOutput,
    ReportedFile,
    placed_outputs,
    reported_files,
)
from ailurus.protocol.url import FileUrl, Url
from dispatcher.service.panda.outside import Outside

# Characters of a diagnosis.
TEXT = 8000
_HEX = re.compile(r"[0-9a-f]{1,8}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_CODES = {int(code): code for code in Code}
_LOG = re.compile(r"(.*\.)?log(\..*)?\.tgz")
_PHASES = ("get_job", "stage_in", "run", "stage_out", "initial_setup", "setup")


# Pilot 3 gives these for a payload that exits with 2 or 3, whatever these numbers mean to it
# (`resolve_transform_error` of its errorcodes.py); the exit code itself says more.
FROM_EXIT_CODES = frozenset({1368, 1378})
# With one of these Pilot 3 may send what went wrong as exeErrorCode: so of a stage-in that failed.
SAYS_LITTLE = frozenset({0, Code.GENERAL_ERROR, Code.PAYLOAD_FAILED})


class Missing(Exception):
    """Outputs are not as the job needs them: it has not finished."""


class HandedOut(NamedTuple):
    """An attempt as its pilot was given it."""

    job_id: int
    attempt_nr: int
    spec: JobSpec
    mark: str = ""
    """Of the store, in names of Rucio."""
    where: Outside = Outside()

    def names(self, file: OutputFile) -> tuple[str, ...]:
        """How an output may be called in a report: with the mark, as pilots of older versions did,
        and as in the job."""
        key = self.job_id, self.attempt_nr
        return panda.lfn_of(*key, file, self.mark), panda.lfn(*key, file.name), file.name


def report(sent: JobUpdate, given: HandedOut, *, now: float, worker: str = "") -> m.Report:
    """The report in a final update. `finished` becomes a failure where outputs are missing.
    `worker`: the error that its worker ended with, if that was reported."""
    job_id, attempt_nr = given.job_id, given.attempt_nr
    finished, fault = sent.state == "finished", ""
    files = () if finished else _log(sent, job_id, attempt_nr)
    if finished:
        try:
            files = _files(sent, given)
        except Missing as error:
            finished, fault = False, str(error)
    code, transient = (0, False) if finished else _code(sent, fault)
    exit_code = sent.exit_code
    return m.Report(
        job_id=job_id,
        attempt_nr=attempt_nr,
        # The caller's token stands for it.
        report_key="-",
        finished=finished,
        code=code,
        diagnosis="" if finished else _diagnosis(sent, fault, worker),
        transient=transient,
        exit_code=exit_code if exit_code is not None and abs(exit_code) <= 1000 else None,
        files=files,
        usage=usage(sent),
        timing=_timing(sent.timing),
        ended=sent.ended or now,
        host=sent.node[:500],
        runtime="panda",
        stderr_tail=sent.log[-TEXT:],
    )


def _files(sent: JobUpdate, given: HandedOut) -> tuple[m.DoneFile, ...]:
    try:
        listed = reported_files(sent.outputs)
    except ValueError as error:
        raise Missing(str(error)) from None
    by_transform = {one.name: one for one in placed_outputs(sent.job_report)}
    files: list[m.DoneFile] = []
    for file in given.spec.outputs:
        names = given.names(file)
        full, entry = next(
            ((name, listed.pop(name)) for name in names if name in listed), ("", None)
        )
        if file.optional and _absent(by_transform.get(file.name), entry):
            continue
        place = file.url or ("" if file.scope else given.where.place)
        if place and entry is None and file.name in by_transform:
            one = by_transform[file.name]
            # only where it was to go: the report was written beside the payload, which can write
            # too
            surl = _placed(place, names[0])
            entry = ReportedFile(fsize=one.size, adler32=one.adler32, surl=surl)
        if entry is not None:
            done = _done(file.name, entry)
            files.append(replace(done, url=_of_rucio(done.url, entry, full, file, given.where)))
        elif not file.optional:
            raise Missing(f"output {file.name} is not in the output report")
    inputs = {file.name for file in given.spec.inputs}
    unknown = [name for name in listed if name not in inputs and not _LOG.fullmatch(name)]
    if unknown:
        raise Missing(f"the job has no output {min(unknown)[:200]}")
    return tuple(files)


def _of_rucio(url: str, entry: ReportedFile, name: str, file: OutputFile, where: Outside) -> str:
    """Where an output is: by its identifier, if the pilot took it to Rucio's storage and names its
    place there."""
    if not (file.scope and where.rse) or url.startswith(f"{SCHEME}:"):
        return url
    return Did(file.scope, name).url(entry.endpoint or where.rse).text


def _absent(one: PlacedOutput | None, entry: ReportedFile | None) -> bool:
    """Whether an output was not made, and what was staged out only stands in its place."""
    if one is None or not one.absent:
        return False
    return entry is None or (panda.number(entry.fsize), entry.adler32) == (one.size, one.adler32)


def _log(sent: JobUpdate, job_id: int, attempt_nr: int) -> tuple[m.DoneFile, ...]:
    """Where the log of a failed attempt is: of its files, only that counts."""
    try:
        entry = reported_files(sent.outputs).get(panda.lfn(job_id, attempt_nr, LOG))
        return () if entry is None else (_done(LOG, entry),)
    except (Missing, ValueError):
        return ()


def _done(name: str, entry: ReportedFile) -> m.DoneFile:
    size = panda.number(entry.fsize)
    adler32 = entry.adler32.strip().lower()
    md5 = entry.md5sum.strip().lower()
    if size is None or size < 0:
        raise Missing(f"output {name} has no size")
    if not (_HEX.fullmatch(adler32) or _MD5.fullmatch(md5)):
        raise Missing(f"output {name} has no checksum")
    return m.DoneFile(
        name=name,
        url=_url(entry.surl),
        size=size,
        adler32=adler32.rjust(8, "0") if _HEX.fullmatch(adler32) else "",
        md5=md5 if _MD5.fullmatch(md5) else None,
    )


def _placed(directory: str, name: str) -> str:
    try:
        return Url.parse(directory).joined(name).text
    except AilurusError as error:
        raise Missing(str(error)) from None


def _url(text: str) -> str:
    """The URL of a file, if it has one: children of the job would read it there."""
    try:
        return msgspec.convert(text, FileUrl)
    except msgspec.ValidationError:
        return ""


def _code(sent: JobUpdate, fault: str) -> tuple[int, bool]:
    """The code of a failure, and whether another attempt may help."""
    if fault:
        return Code.MISSING_OUTPUT, False
    reported = sent.code or 0
    if sent.exit_code and abs(reported) in FROM_EXIT_CODES:
        reported = Code.PAYLOAD_FAILED
    elif sent.exe_code and abs(reported) in SAYS_LITTLE and abs(sent.exe_code) not in SAYS_LITTLE:
        reported = sent.exe_code
    elif not reported:
        reported = Code.PAYLOAD_FAILED if sent.exit_code else Code.GENERAL_ERROR
    number = min(abs(reported), 1_000_000)
    code = _CODES.get(number)
    if code is None:
        # PanDA: a code below zero is worth another attempt.
        return number, reported < 0
    return number, code.transient


def _diagnosis(sent: JobUpdate, fault: str, worker: str) -> str:
    diagnosis = fault or sent.diagnosis or sent.exe_diagnosis
    # Then the pilot's text is of another fault.
    if sent.exit_code and abs(sent.code or 0) in FROM_EXIT_CODES:
        diagnosis = fault
    if not diagnosis and sent.exit_code:
        diagnosis = f"the payload ended with exit code {sent.exit_code}"
    of_worker = f"its worker ended with error {worker}" if worker else ""
    return ("; ".join(one for one in (diagnosis, of_worker) if one) or "the pilot gave no reason")[
        :TEXT
    ]


def usage(sent: JobUpdate) -> m.Usage | None:
    """The payload's resource use, if the update reports any."""
    values: dict[str, Any] = {
        "cpu_s": sent.cpu_s,
        "rss_kb": sent.avg_rss_kb,
        "max_rss_kb": sent.max_rss_kb,
        "max_pss_kb": sent.max_pss_kb,
        "read_bytes": sent.read_bytes,
        "write_bytes": sent.write_bytes,
    }
    values = {name: value for name, value in values.items() if value is not None and value >= 0}
    if not values:
        return None
    if sent.started and sent.ended and sent.ended > sent.started:
        values["wall_s"] = sent.ended - sent.started
    return m.Usage(**values)


def _timing(text: str) -> dict[str, float]:
    """`pilotTiming`: six durations in seconds, in a fixed order."""
    values = [panda.number(part) for part in text.split("|")]
    if len(values) != len(_PHASES):
        return {}
    return {phase: float(value) for phase, value in zip(_PHASES, values, strict=True) if value}
