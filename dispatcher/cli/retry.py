"""`dispatcher retry ID…`: final jobs submitted anew, as new jobs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli.connection import connect


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import job_id

    parser.add_argument("ids", nargs="+", type=job_id, metavar="ID")


def main(args: Namespace, out: Output) -> int:
    """Print the new job ids, in the order given."""
    answer = connect(args, patience_s=0.0).retry(args.ids)
    if out.as_json:
        out.document(answer)
    else:
        out.table(["job", "new job"], zip(args.ids, answer.job_ids, strict=True))
    return 0
