"""What the items of a job make of the end of an attempt of it: the job ends when all of them have,
and as its goal says. Functions of a transaction."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from dispatcher.ports import Tx
from dispatcher.rules import item_records, items
from dispatcher.rules.records import JobRecord


class Judged(Struct, frozen=True):
    """A report as it counts."""

    report: m.Report
    progressed: bool = False
    """An item finished in that attempt, and need not run again."""
    last: bool = False
    """No item is left for another attempt."""


def judge(tx: Tx, job: JobRecord, report: m.Report) -> Judged:
    """What a report of an attempt of a job amounts to, whose items may stand otherwise than its
    pilot says."""
    cluster = item_records.find_cluster(tx, job.job_id) if job.items else None
    if cluster is None or cluster.job_id != job.job_id:
        return Judged(report)
    mark = cluster.base + report.attempt_nr
    progressed = cluster.finishing == mark and not cluster.redo
    over = items.settled(cluster, mark)
    if not over:
        if not report.finished:
            return Judged(report, progressed=progressed)
        left = cluster.items - cluster.ended
        said = f"{left} of its {cluster.items} payloads have not ended"
        return Judged(_failed(report, Code.INTERNAL, said, transient=True), progressed=progressed)
    if cluster.finished < cluster.needed:
        said = (
            f"{cluster.failed} of its {cluster.items} payloads failed, "
            f"and {cluster.needed} had to finish"
        )
        failed = _failed(report, Code.PAYLOAD_FAILED, said, transient=False)
        # Of an attempt that ended well its pilot says what is no matter now.
        remedy = "" if report.finished else report.remedy
        remedy = remedy or (
            f"`dispatcher show {job.job_id} --items failed` lists them, `dispatcher logs "
            f"{job.job_id}.NUMBER --stream stderr` has what one wrote: mend what it says"
        )
        # What those that finished left is in storage, and no other attempt comes.
        return Judged(replace(failed, remedy=remedy, files=report.files), last=True)
    return Judged(report)


def _failed(report: m.Report, code: Code, said: str, *, transient: bool) -> m.Report:
    if not report.finished:
        # What it met besides is said first.
        said = f"{report.diagnosis}; {said}" if report.diagnosis else said
    return replace(
        report, finished=False, code=code, diagnosis=said[:8000], transient=transient, files=()
    )
