"""What the items of a job make of the end of an attempt of it: the job ends when all of them have,
and as its goal says. Functions of a transaction."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from dispatcher.ports import Tx
from dispatcher.rules import item_pools, item_records, items
from dispatcher.rules.item_records import ClusterRecord, Redo
from dispatcher.rules.records import JobRecord


class Judged(Struct, frozen=True):
    """A report as it counts."""

    report: m.Report
    progressed: bool = False
    """An item finished in that attempt, and need not run again."""
    last: bool = False
    """No item is left for another attempt."""
    keeps: ClusterRecord | None = None
    """The items, once that report counts: the outputs of those that finished are in storage."""


def judge(tx: Tx, job: JobRecord, report: m.Report) -> Judged:
    """What a report of an attempt of a job amounts to, whose items may stand otherwise than its
    pilot says."""
    cluster = None
    if job.items:
        cluster = item_records.find_cluster(tx, job.job_id, report.attempt_nr)
    if cluster is None or cluster.job_id != job.job_id:
        return Judged(report)
    if cluster.pool:
        return _of_pool(tx, cluster, report)
    mark = cluster.base + report.attempt_nr
    keeps = _keeping(cluster, mark) if report.finished else None
    progressed = cluster.finishing == mark and (not cluster.redo or keeps is not None)
    over = items.settled(cluster, mark)
    if not over:
        if not report.finished:
            return Judged(report, progressed=progressed)
        left = cluster.items - cluster.ended
        said = f"{left} of its {cluster.items} payloads have not ended"
        failed = _failed(report, Code.INTERNAL, said, transient=True)
        files = () if keeps is None else tuple(one for one in report.files if one.item is not None)
        return Judged(replace(failed, files=files), progressed=progressed, keeps=keeps)
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
        return Judged(replace(failed, remedy=remedy, files=report.files), last=True, keeps=keeps)
    return Judged(report, keeps=keeps)


def _of_pool(tx: Tx, cluster: ClusterRecord, report: m.Report) -> Judged:
    """The same of a job that leased items of a step: which of them ended does not decide of it."""
    mark = cluster.mark
    if not report.finished:
        progressed = bool(mark) and cluster.finishing == mark and not cluster.redo
        return Judged(replace(report, files=()), progressed=progressed)
    keeps = replace(cluster, kept=mark) if mark and cluster.redo else None
    return Judged(item_pools.stored(tx, cluster, report), keeps=keeps)


def _keeping(cluster: ClusterRecord, mark: int) -> ClusterRecord | None:
    """The items of a job whose pilot has stored the outputs of all that finished in the attempt of
    that mark; None: they belong to the job, or more than these count as finished."""
    found = cluster.mark == mark and cluster.swept == 1
    return replace(cluster, kept=mark) if cluster.redo == Redo.APART and found else None


def _failed(report: m.Report, code: Code, said: str, *, transient: bool) -> m.Report:
    if not report.finished:
        # What it met besides is said first.
        said = f"{report.diagnosis}; {said}" if report.diagnosis else said
    return replace(
        report, finished=False, code=code, diagnosis=said[:8000], transient=transient, files=()
    )
