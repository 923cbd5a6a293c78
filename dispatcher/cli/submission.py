"""`dispatcher submission`: what was submitted together, as one thing."""

from __future__ import annotations

import math
import sys
import time
import uuid
from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, clock
from dispatcher.cli import cancel, exits, wait
from dispatcher.cli.connection import connect
from dispatcher.cli.submissions import SIGNS, bar

if TYPE_CHECKING:
    from ailurus.protocol.messages import SubmissionAct, SubmissionDetail, SubmissionRow
    from ailurus.wire.client import Client

VERBS = {
    "show": "how far it is",
    "wait": "wait until all its jobs are final",
    "cancel": "cancel its jobs that are not final",
    "retry": "submit anew what failed in it, and what depends on that",
}
ONE_WAIT_S = 20.0
LOOK_S = 2.0
"""Between two bars at a terminal."""


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli import common
    from dispatcher.cli.words import job_id, span

    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    for verb, text in VERBS.items():
        # What is not said here may have been said before the verb.
        one = verbs.add_parser(verb, help=text, argument_default=SUPPRESS)
        common(one)
        one.add_argument(
            "id", type=job_id, metavar="ID", help="its number, or that of one of its jobs"
        )
        if verb == "wait":
            one.add_argument("--timeout", type=span, metavar="10m", help="then exit with 75")
        elif verb == "cancel":
            one.add_argument("--dry-run", action="store_true", help="list the jobs, do nothing")
            one.add_argument("--yes", "-y", action="store_true", help="do not ask")
        elif verb == "retry":
            one.add_argument(
                "--all", action="store_true", help="restart all of it, once it has ended"
            )
            one.add_argument(
                "--request-id", metavar="ID", help="yours: the same id again gives the same jobs"
            )
    parser.set_defaults(timeout=None, all=False, request_id=None, dry_run=False, yes=False)


def main(args: Namespace, out: Output) -> int:
    """Do what is asked."""
    if args.action == "cancel":
        return _cancel(args, out)
    if args.action == "retry":
        return _retry(args, out)
    if args.action == "wait":
        return _wait(args, out)
    detail = _ask(connect(args), args.id, 0.0)
    if out.as_json:
        out.document(detail)
    else:
        _show(detail, out)
    return exits.OK


def _ask(client: Client, number: int, wait_s: float) -> SubmissionDetail:
    from ailurus.protocol.api_submissions import SubmissionQuery
    from ailurus.protocol.messages import SubmissionDetail

    ask = SubmissionQuery(submission=number, wait_s=wait_s)
    return client.call("submission", ask, answer=SubmissionDetail, wait_s=wait_s)


def _show(detail: SubmissionDetail, out: Output) -> None:
    row = detail.row
    parts = row.parts
    out.pairs(
        (
            ("submission", f"{row.submission} {row.name}"),
            ("user", row.user if row.by == row.user else f"{row.user} (sent by {row.by})"),
            ("submitted", clock(row.made)),
            ("labels", " ".join(f"{key}={value}" for key, value in sorted(row.labels.items()))),
            ("jobs", f"{row.jobs} ({row.submission}-{row.submission + row.jobs - 1})"),
            ("progress", bar(row)),
            *_parts(row),
            ("retry of", row.retry_of or ""),
            ("retried as", " ".join(map(str, detail.retried_as))),
            *(("done to it", _act(one)) for one in detail.acts),
        )
    )
    out.line(f"its jobs: dispatcher jobs submission:{row.submission}")
    if parts is not None and parts.failed:
        out.line(f"why they failed: dispatcher jobs submission:{row.submission} state:failed")
        if row.ended:
            out.line(f"once that is mended: dispatcher submission retry {row.submission}")


def _act(one: SubmissionAct) -> str:
    return f"{clock(one.at)} {one.verb} of {one.jobs} jobs by {one.by} (action {one.action})"


def _parts(row: SubmissionRow) -> list[tuple[str, int]]:
    """How many jobs are how far, in its words."""
    parts = row.parts
    return [] if parts is None else [(name, getattr(parts, name)) for name in SIGNS]


def _counts(row: SubmissionRow) -> str:
    said = ", ".join(f"{n:,} {name}" for name, n in _parts(row) if n)
    return f"{row.jobs:,} jobs: {said}" if said else f"{row.jobs:,} jobs"


def _never(client: Client, row: SubmissionRow) -> bool:
    """Whether none of its jobs runs, and none of the newest that wait can run as things are."""
    if row.parts is None or row.parts.running or not row.parts.waiting:
        return False
    waiting = _newest(client, f"submission:{row.submission} state:activated,pending")
    return bool(waiting) and wait.never(client, waiting)


def _newest(client: Client, query: str) -> list[int]:
    from ailurus.protocol.api import JobsQuery

    return [job.job_id for job in client.jobs(JobsQuery(query=query, limit=wait.ASK_WHY)).jobs]


def _verdict(client: Client, row: SubmissionRow) -> int:
    """0 when all finished, else the exit code of a payload that did not, else 1."""
    bad = _newest(client, f"submission:{row.submission} state:failed,cancelled,closed")
    if bad:
        return wait.verdict_of(client, bad[-1], row.jobs - (row.parts.finished if row.parts else 0))
    finished = row.parts is not None and row.parts.finished == row.jobs
    # Those that were moved away are not found, and are counted.
    return exits.OK if finished else 1


def _cancel(args: Namespace, out: Output) -> int:
    filters = dict.fromkeys(("state", "queue", "name", "user", "code", "kind"))
    said = {**vars(args), **filters, "ids": [], "query": f"submission:{args.id}"}
    return cancel.main(Namespace(**said), out)


def _retry(args: Namespace, out: Output) -> int:
    from ailurus.protocol.messages import RetrySubmission, Submitted

    ask = RetrySubmission(
        submission=args.id, request_id=args.request_id or uuid.uuid4().hex, whole=args.all
    )
    answer = connect(args).call("retry_submission", ask, answer=Submitted, wait_s=60.0)
    if out.as_json:
        out.document(answer)
        return exits.OK
    out.raw(f"{answer.submission}\n")
    if sys.stderr.isatty():
        sys.stderr.write(f"{len(answer.job_ids)} jobs are tried again\n")
    return exits.OK


def _wait(args: Namespace, out: Output) -> int:
    """Wait for all jobs; 0 when all finished, else as a payload that did not."""
    deadline = math.inf if args.timeout is None else time.monotonic() + args.timeout
    client = connect(args, patience_s=wait.PATIENCE_S).until(deadline + wait.LAST_ANSWER_S)
    terminal = sys.stderr.isatty()
    pause, shown, asked = 0.0, False, time.monotonic()
    while True:
        left = max(0.0, deadline - time.monotonic())
        detail = _ask(client, args.id, min(pause, left))
        row = detail.row
        if terminal:
            # Nothing of it was written by anybody else.
            sys.stderr.write(f"\r{bar(row)} {_counts(row)}\x1b[K")
            sys.stderr.flush()
            shown = True
        over = time.monotonic() >= deadline
        if row.ended or over:
            break
        if time.monotonic() >= asked:
            asked = time.monotonic() + wait.ASK_WHY_S
            if _never(client, row):
                return exits.NEVER
        pause = LOOK_S if terminal else ONE_WAIT_S
    if shown:
        sys.stderr.write("\n")
    if out.as_json:
        out.document(detail)
    else:
        out.table(("submission", "progress"), [(row.submission, _counts(row))])
    if not row.ended:
        return exits.TRY_AGAIN
    return _verdict(client, row)
