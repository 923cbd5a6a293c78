"""`dispatcher jobs`: a list, newest first."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, ago
from dispatcher.cli import selection
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import USAGE, CommandError

if TYPE_CHECKING:
    from ailurus.protocol.messages import JobRow

CSV = (
    "job",
    "name",
    "state",
    "queue",
    "user",
    "attempt",
    "code",
    "created",
    "changed",
    "diagnosis",
)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="QUERY", help="as in `state:failed 'age<2h'`: docs/query.md"
    )
    selection.filters(parser)
    parser.add_argument("--csv", action="store_true", help="for a spreadsheet; times in RFC 3339")
    parser.add_argument(
        "--limit", type=int, default=100, help="at most so many (default %(default)s)"
    )


def main(args: Namespace, out: Output) -> int:
    """Ask for as many pages as the limit needs."""
    from ailurus.protocol.messages import JobPage

    if args.words and args.query is not None:
        raise CommandError(USAGE, "two queries", remedy="say it in one")
    if args.words:
        args.query = " ".join(args.words)
    rows, before = selection.listed(connect(args), args, args.limit)
    if args.csv:
        out.csv(CSV, (_cells(row) for row in rows))
    elif out.as_json:
        out.document(JobPage(jobs=tuple(rows), next=before))
    else:
        out.table(
            ["job", "name", "state", "queue", "user", "attempt", "changed", "diagnosis"],
            (
                (
                    r.job_id,
                    r.name,
                    r.state,
                    r.queue,
                    r.user,
                    r.attempt_nr,
                    ago(r.changed),
                    r.diagnosis,
                )
                for r in rows
            ),
        )
    return 0


def _cells(row: JobRow) -> tuple[object, ...]:
    times = (_stamp(row.created), _stamp(row.changed))
    return (
        *(row.job_id, row.name, str(row.state), row.queue, row.user, row.attempt_nr, row.code),
        *times,
        row.diagnosis,
    )


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
