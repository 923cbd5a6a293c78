"""`dispatcher failures`: what went wrong, where, how often, and which jobs these are."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ailurus.output import Output, ago
from dispatcher.cli.connection import connect
from dispatcher.cli.words import span

if TYPE_CHECKING:
    from ailurus.protocol.messages import FailureCell


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--since", type=span, metavar="TIME", help="that came in the last 7d, say")
    parser.add_argument("--site", default="", help="only at this site")
    parser.add_argument(
        "--fault", default="", metavar="WHOSE", help="only of payload, input, site, node or us"
    )
    parser.add_argument(
        "--matrix", action="store_true", help="how many by code and site, in place of kinds"
    )
    parser.add_argument("--limit", type=int, default=50, help="kinds (default %(default)s)")


def main(args: Namespace, out: Output) -> int:
    """Ask for the kinds of failures and show them, the most frequent first."""
    from ailurus.protocol.api import FailuresQuery
    from ailurus.protocol.messages import Failures

    since = 0.0 if args.since is None else time.time() - args.since
    ask = FailuresQuery(since=since, limit=args.limit, site=args.site, fault=args.fault)
    answer = connect(args).call("failures", ask, answer=Failures)
    if out.as_json:
        out.document(answer)
        return 0
    if args.matrix:
        out.table(*matrix(answer.cells))
        return 0
    out.table(
        ["failed", "code", "fault", "site", "diagnosis", "first", "last", "which"],
        (
            (
                row.jobs,
                row.code or "",
                row.fault,
                row.site,
                row.diagnosis,
                ago(row.first) if row.first is not None else "",
                ago(row.last),
                f"dispatcher jobs kind:{row.kind}",
            )
            for row in answer.kinds
        ),
    )
    if answer.more:
        out.line(f"and {answer.more} more kinds")
    return 0


def matrix(cells: Sequence[FailureCell]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows: failed jobs with a code at a site, the worst of both first."""
    by_code: Counter[int] = Counter()
    by_site: Counter[str] = Counter()
    for cell in cells:
        by_code[cell.code] += cell.jobs
        by_site[cell.site] += cell.jobs
    jobs = {(cell.code, cell.site): cell.jobs for cell in cells}
    sites = [site for site, _ in by_site.most_common()]
    rows: list[list[object]] = [
        [code or "", total, *(jobs.get((code, site), "") for site in sites)]
        for code, total in by_code.most_common()
    ]
    return ["code", "failed", *(site or "no site" for site in sites)], rows
