"""`dispatcher failures`: what went wrong, where, how often, and which jobs these are."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from ailurus.output import Output, ago
from dispatcher.cli.connection import connect
from dispatcher.cli.words import span


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--since", type=span, metavar="TIME", help="that came in the last 7d, say")
    parser.add_argument("--site", default="", help="only at this site")
    parser.add_argument(
        "--fault", default="", metavar="WHOSE", help="only of payload, input, site, node or us"
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
