"""`dispatcher submissions`: what was submitted together, newest first, and how far it is."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, ago
from dispatcher.cli.connection import connect

if TYPE_CHECKING:
    from ailurus.protocol.messages import SubmissionRow

PAGE = 200
WIDTH = 20
"""Signs of a bar."""
SIGNS = {"finished": "#", "failed": "x", "cancelled": "-", "running": ">", "waiting": "."}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--name", default="", help="only of this name; a final * stands for any end"
    )
    parser.add_argument("--label", default="", metavar="KEY[=VALUE]", help="only with this label")
    parser.add_argument("--user", default="", help="only of this user")
    parser.add_argument("--open", action="store_true", help="only those that have not ended")
    parser.add_argument(
        "--limit", type=int, default=50, help="at most so many (default %(default)s)"
    )


def main(args: Namespace, out: Output) -> int:
    """Ask for as many pages as the limit needs."""
    from ailurus.protocol.api_submissions import SubmissionsQuery
    from ailurus.protocol.messages import SubmissionPage

    client = connect(args)
    rows: list[SubmissionRow] = []
    before: int | None = None
    while len(rows) < args.limit:
        ask = SubmissionsQuery(
            user=args.user,
            name=args.name,
            label=args.label,
            open=args.open,
            before=before,
            limit=min(PAGE, args.limit - len(rows)),
        )
        page = client.call("submissions", ask, answer=SubmissionPage)
        rows += page.submissions
        before = page.next
        if before is None:
            break
    if out.as_json:
        out.document(SubmissionPage(submissions=tuple(rows), next=before))
        return 0
    columns = ("submission", "name", "user", "jobs", "progress", "finished", "failed", "submitted")
    out.table(columns, (_cells(row) for row in rows))
    if before is not None:
        sys.stderr.write(f"the newest {len(rows):,}: there are more (--limit)\n")
    return 0


def _cells(row: SubmissionRow) -> tuple[object, ...]:
    finished, failed = ("?", "?") if row.parts is None else (row.parts.finished, row.parts.failed)
    when = ago(row.made)
    return row.submission, row.name, row.user, row.jobs, bar(row), finished, failed, when


def bar(row: SubmissionRow) -> str:
    """How far a submission is, as signs: `[####x>>...]`. Whatever part has jobs has a sign."""
    if row.parts is None:
        return "?"
    counts = {part: getattr(row.parts, part) for part in SIGNS}
    total = max(1, sum(counts.values()))
    signs = {part: max(1, n * WIDTH // total) if n else 0 for part, n in counts.items()}
    most = max(signs, key=lambda part: signs[part])
    signs[most] += WIDTH - sum(signs.values())
    return f"[{''.join(SIGNS[part] * n for part, n in signs.items())}]"
