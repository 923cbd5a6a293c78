"""Submissions as users see them: the jobs of one request, how far they are, and what is tried again
of them.

A submission is found by its first job, whose number is its own, and its jobs follow each other. So
a job needs no column for it, and whoever submits one job pays for nothing. How far a large one is,
its `tally` tells, which each commit moves that changes one of its jobs; a small one's jobs are
counted when somebody looks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.states import FINAL, PART, PARTS, UNSUCCESSFUL, JobState
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import action_records, records, submission_records
from dispatcher.rules.retries import Tries
from dispatcher.rules.submission import COUNTED_ON_SIGHT
from dispatcher.rules.submission_records import SubmissionRecord

# Retries that a submission names.
MOST_RETRIES = 100
# Actions that it shows.
MOST_ACTS = 50
_labels = msgspec.json.Decoder(dict[str, str]).decode


def digest_of(number: int, *, whole: bool) -> str:
    """What a retry of a submission says, to know it again when it comes again."""
    return hashlib.sha256(repr(("submission", number, whole)).encode()).hexdigest()


def page(tx: Tx, owner: str, least: int, before: int, most: int) -> list[m.SubmissionRow]:
    """The newest submissions between two numbers; `owner` blank: everybody's."""
    found = submission_records.page(tx, owner, least, before, most)
    return [row(tx, one) for one in found]


def find(tx: Tx, number: int, owns: Callable[[str], bool]) -> m.SubmissionRow:
    """A submission, by its number or that of one of its jobs, with its jobs counted. Raises
    Rejected."""
    found = submission_records.of_job(tx, number)
    if found is None or not owns(found.owner):
        raise Rejected(
            404,
            f"there is no submission {number}",
            field="submission",
            remedy="see `dispatcher submissions`; jobs of a task: `dispatcher task list`",
        )
    return row(tx, found, counted=True)


def retried_as(tx: Tx, number: int) -> tuple[int, ...]:
    """The submissions that try one again."""
    found = tx.all("submission.retries", first=number, most=MOST_RETRIES)
    return tuple(first for (first,) in found)


def acts(tx: Tx, number: int) -> tuple[m.SubmissionAct, ...]:
    """What was done to jobs of a submission."""
    return tuple(
        m.SubmissionAct(action=one.action_id, by=one.by, verb=one.verb, at=one.at, jobs=one.jobs)
        for one in action_records.reached(tx, number, MOST_ACTS)
    )


def row(tx: Tx, one: SubmissionRecord, *, counted: bool = False) -> m.SubmissionRow:
    """A submission as users see it; `counted`: with its jobs counted, however many they are."""
    parts = None
    if one.waiting is not None:
        parts = m.Parts(**{part: max(0, getattr(one, part)) for part in PARTS})
    elif counted or one.jobs <= COUNTED_ON_SIGHT:
        parts = m.Parts(**count(tx, one.first, one.jobs))
    name = one.name or records.value(tx.one("submission.named", job_id=one.first), "")
    return m.SubmissionRow(
        submission=one.first,
        jobs=one.jobs,
        user=one.owner,
        by=one.by,
        name=name,
        made=one.made,
        ended=parts is not None and not parts.waiting + parts.running,
        labels=_labels(one.labels) if one.labels else {},
        parts=parts,
        retry_of=one.retry_of,
    )


def count(tx: Tx, first: int, jobs: int) -> dict[str, int]:
    """How many jobs of a submission are how far, as the rows tell."""
    found: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    for statement in ("submission.states", "submission.old_states"):
        for state, n in tx.all(statement, first=first, before=first + jobs):
            if state is not None:
                found[PART[JobState(state)]] += n
    return dict(found)


def recount(tx: Tx, after: int) -> int | None:
    """Set the next tally of a submission that has not ended to what the rows tell: a dispatcher of
    an earlier version changed jobs, and moved no tally. Its number; None: there are no more."""
    number = records.value(tx.one("tally.open", first=after, most=1), 0)
    if not number:
        return None
    # Whoever moves it meanwhile waits, and its jobs are not counted here.
    tx.one("tally.lock", first=number)
    found = submission_records.of_job(tx, number)
    if found is not None and found.first == number:
        parts = count(tx, number, found.jobs)
        # Where some were moved away and dropped, only the tally knows how they ended.
        if sum(parts.values()) == found.jobs:
            tx.run("tally.set", first=number, **parts)
    return number


def again(tx: Tx, found: m.SubmissionRow, *, whole: bool) -> tuple[int, ...]:
    """Which jobs are to be tried again of a submission: the latest try of each that failed, with
    the ones that it waits for and that did not finish; or of all that have ended. Raises
    Rejected."""
    span = {"first": found.submission, "before": found.submission + found.jobs}
    ended = [(job_id, JobState(state)) for job_id, state, _ in tx.all("submission.ends", **span)]
    tries = Tries(tx)
    if whole:
        if len(ended) < found.jobs:
            raise _not_ended(found, found.jobs - len(ended))
        chosen = dict.fromkeys(tries.latest(job_id) for job_id, _ in ended)
    else:
        # Who cancelled some wants them back only where another waits for them.
        failed = [one for one, state in ended if state in UNSUCCESSFUL - {JobState.CANCELLED}]
        chosen = dict.fromkeys(_with_parents(tx, tries, failed))
    if not chosen:
        raise Rejected(
            409,
            f"nothing is to be tried again of submission {found.submission}: none of its jobs has "
            "failed whose latest try has not finished or is not under way",
            field="submission",
            remedy=f"to run all once more: dispatcher submission retry {found.submission} --all",
        )
    return tuple(sorted(chosen))


def _with_parents(tx: Tx, tries: Tries, job_ids: Sequence[int]) -> list[int]:
    """The latest tries of jobs that ended without success, and of those that they wait for."""
    chosen: dict[int, None] = {}
    left = list(reversed(job_ids))
    while left:
        latest = tries.latest(left.pop())
        if latest in chosen or tries.state(latest) not in UNSUCCESSFUL:
            continue
        chosen[latest] = None
        # A parent that is not in the queue any more has finished.
        for parent, state in records.parents(tx, latest):
            if state in FINAL and state != JobState.FINISHED and tries.finished(parent) is None:
                left.append(parent)
    return list(chosen)


def _not_ended(found: m.SubmissionRow, n: int) -> Rejected:
    return Rejected(
        409,
        f"{n} jobs of submission {found.submission} have not ended, or were moved away",
        field="submission",
        remedy=f"cancel them first: dispatcher submission cancel {found.submission}",
    )
