"""The life of one attempt, from its inputs to a report on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.launchers import SINGLE
from ailurus.protocol.messages import DoneFile, Report
from ailurus.protocol.program import check_program
from ailurus.protocol.states import JobState
from ailurus.protocol.trees import place
from pilot.attempt import Attempt
from pilot.blame import unexpected
from pilot.clock import Clock
from pilot.files.log_tarball import keep_log
from pilot.files.results import result_in
from pilot.files.undeclared import undeclared
from pilot.kit import Kit
from pilot.launching import launcher_of
from pilot.ports import JobError
from pilot.run import Outcome, needs_network, run, stderr_tail
from pilot.upstream.spool import Begun
from pilot.workdir import SCRIPT, Workdir, size_of

_log = Log("pilot.flow")
NODE_FAULTS = (
    Code.RESOURCE_UNAVAILABLE,
    Code.NO_LOCAL_SPACE,
    Code.CONTAINER_FAILED,
    Code.NO_LOOP_DEVICE,
    Code.BIND_FAILED,
)
"""This node lacks something, whatever the job is."""
KEEP = "a file is kept if the job names it in `outputs`"


def carry(attempt: Attempt, kit: Kit) -> None:
    """Take an attempt to its end. Has a thread of its own; every way out is a report, or a job
    given back unstarted, whatever fails on the way to it."""
    with Workdir(kit.directory / attempt.name) as work:
        try:
            report = _attempt(attempt, kit, work)
        except Exception as bug:  # noqa: BLE001 - the one place: a bug of ours must not lose a job
            report = report_of(attempt, kit, None, (), _unexpected(attempt, bug), "")
        if report is None:
            kit.reporter.release(attempt)
        else:
            conclude(report, attempt, kit)


def _attempt(attempt: Attempt, kit: Kit, work: Workdir) -> Report | None:
    """The final report of an attempt; None: it was not begun, and can be given back."""
    outcome: Outcome | None = None
    files: tuple[DoneFile, ...] = ()
    error: JobError | None = None
    try:
        acceptable(attempt.spec, kit)
        kit.stage.allowed(attempt)
        work.make()
        attempt.work = work
        with _phase(attempt, kit.clock, JobState.STARTING, "stage_in"):
            attempt.credentials = kit.delegation.fetch(attempt)
            attempt.renew = partial(kit.delegation.renew, attempt)
            attempt.image = kit.node.prepare(attempt.spec, attempt.check)
            kit.stage.stage_in(attempt, work)
        staged = kit.clock.monotonic()
        with kit.slots.placed(attempt) as placement:
            attempt.timing["wait"] = kit.clock.monotonic() - staged
            with _phase(attempt, kit.clock, JobState.RUNNING, "run"):
                outcome = run(attempt, work, placement, kit)
                attempt.began = not (outcome.error and outcome.error.code in NODE_FAULTS)
        if outcome.error is not None:
            raise outcome.error
        if attempt.spec.result:
            attempt.result = result_in(work, attempt.spec.result)
        with _phase(attempt, kit.clock, JobState.HOLDING, "stage_out"):
            if attempt.spec.outputs:
                attempt.credentials = kit.delegation.newest(attempt)
            files = kit.stage.stage_out(attempt, work, partial(announce, attempt, kit))
    except JobError as expected:
        error = expected
    except Exception as bug:  # noqa: BLE001 - its report has the log and the payload's outcome
        error = _unexpected(attempt, bug)
    if error is not None and outcome is None and attempt.give_back:
        return None
    if error is not None and error.code in NODE_FAULTS:
        attempt.node_fault = error
    if error is not None:
        files = keep_log(attempt, work, kit.stage, error)
    else:
        files = (*files, *keep_log(attempt, work, kit.stage, None))
    measure_output(attempt, work)
    # The log of a failed attempt has such files.
    left = undeclared(attempt.spec, work) if error is None else ""
    return report_of(attempt, kit, outcome, files, error, stderr_tail(work), left)


def begun(attempt: Attempt, kit: Kit, outputs: Sequence[str]) -> Begun:
    """The line of an attempt in the journal, with all URLs at which it may leave something."""
    return Begun(
        job_id=attempt.id[0],
        attempt_nr=attempt.id[1],
        report_key=attempt.assignment.report_key,
        outputs=tuple(outputs),
        directory=str(kit.directory / attempt.name),
        host=attempt.host or kit.host,
        seal=attempt.assignment.seal,
        since=kit.clock.time(),
    )


def announce(attempt: Attempt, kit: Kit, outputs: Sequence[str]) -> None:
    """Note where an attempt is going to leave files, for whoever cleans up if this pilot is
    killed."""
    try:
        kit.journal.begin([begun(attempt, kit, outputs)])
    except OSError as error:
        _log.error("spool_failed", job_id=attempt.id[0], what=error.strerror)


def _unexpected(attempt: Attempt, bug: Exception) -> JobError:
    _log.error("pilot_failed", trace=True, job_id=attempt.id[0])
    return unexpected(bug, "the pilot could not go on with the attempt")


def acceptable(spec: JobSpec, kit: Kit) -> None:
    """Raise JobError for a job that this pilot cannot run, with the field that asks for too
    much."""
    try:
        check_program(spec)
    except AilurusError as error:
        raise JobError(
            Code.PAYLOAD_FAILED, error.message, remedy=error.remedy, field=error.field
        ) from None
    if spec.script and any(place(file).split("/")[0] == SCRIPT for file in spec.inputs):
        raise JobError(
            Code.PAYLOAD_FAILED,
            f"the pilot calls the job's script {SCRIPT}, and an input is called so as well",
            field="inputs",
            remedy="give the input another name",
        )
    kit.node.container.accepts(replace(spec, network=needs_network(spec)))
    if spec.launcher != SINGLE:
        launcher_of(spec)
    # Where some of many have been lost, it is given back.
    if spec.nodes > 1 and len(kit.nodes) == 1:
        raise JobError(
            Code.NOT_IMPLEMENTED,
            f"{spec.nodes} nodes, and this pilot has one",
            field="nodes",
            transient=True,
        )


def measure_output(attempt: Attempt, work: Workdir) -> None:
    """Note how long the payload's output is: the dispatcher may keep only a part of it."""
    attempt.usage = replace(
        attempt.usage, stdout_bytes=size_of(work.stdout), stderr_bytes=size_of(work.stderr)
    )


def report_of(
    attempt: Attempt,
    kit: Kit,
    outcome: Outcome | None,
    files: Sequence[DoneFile],
    error: JobError | None,
    tail: str,
    left: str = "",
) -> Report:
    """The final report of an attempt; that of a finished one names the files that it `left`, and
    the nodes that came and went."""
    return Report(
        job_id=attempt.id[0],
        attempt_nr=attempt.id[1],
        report_key=attempt.assignment.report_key,
        finished=error is None,
        code=Code.OK if error is None else error.code,
        diagnosis=_clipped(_remark(attempt, left) if error is None else _sentence(error)),
        remedy=_clipped((KEEP if left else "") if error is None else error.remedy),
        transient=error is not None and error.transient,
        exit_code=None if outcome is None else outcome.exit_code,
        files=tuple(files),
        usage=attempt.usage,
        timing={name: round(seconds, 4) for name, seconds in attempt.timing.items()},
        ended=kit.clock.time(),
        host=attempt.host or kit.host,
        runtime=kit.node.container.of(attempt.spec).name,
        stderr_tail=_clipped(tail),
        held=attempt.held,
        items=attempt.untold,
        result=attempt.result if error is None else "",
    )


def conclude(report: Report, attempt: Attempt, kit: Kit) -> None:
    """Put the report on disk, then let the reporter send it. What fails here costs the end of the
    log, or that the report outlives the pilot, never the report."""
    ends = None
    try:
        ends = kit.reporter.follow(attempt).rest()
    except Exception:  # noqa: BLE001
        _log.error("log_not_kept", trace=True, job_id=attempt.id[0])
    attempt.work = None
    try:
        kit.journal.keep(report, attempt.leftovers)
    except OSError as error:
        # It is still sent from memory.
        _log.error("spool_failed", job_id=attempt.id[0], what=error.strerror)
    except Exception:  # noqa: BLE001
        _log.error("spool_failed", trace=True, job_id=attempt.id[0])
    seal, leftovers = attempt.assignment.seal, attempt.leftovers
    kit.reporter.owe(report, kit.journal, ends, seal=seal, leftovers=leftovers)
    _log.info(
        "job_ended",
        job_id=attempt.id[0],
        attempt_nr=attempt.id[1],
        code=report.code,
        why=report.diagnosis,
    )


@contextmanager
def _phase(attempt: Attempt, clock: Clock, state: JobState, name: str) -> Iterator[None]:
    attempt.enter(state)
    began = clock.monotonic()
    try:
        yield
    finally:
        attempt.timing[name] = clock.monotonic() - began


def _remark(attempt: Attempt, left: str) -> str:
    """What is to be said of an attempt that finished."""
    changes = ", ".join(attempt.node_changes)
    return "; ".join(filter(None, (changes and f"its nodes changed while it ran: {changes}", left)))


def _sentence(error: JobError) -> str:
    return f"{error.field}: {error.message}" if error.field else error.message


def _clipped(text: str, most: int = 7900) -> str:
    """Text that any dispatcher takes: a name of a file may have bytes that are none."""
    if not text:
        return ""
    clean = (
        text.encode("utf-8", "backslashreplace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    )
    return clean if len(clean) <= most else clean[: most - 1] + "…"
