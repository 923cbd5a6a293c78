"""`dispatcher cancel ID…`: workers that run them are told at their next heartbeat."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli.connection import connect


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import job_id

    parser.add_argument("ids", nargs="+", type=job_id, metavar="ID")


def main(args: Namespace, out: Output) -> int:
    """Cancel what is not final yet."""
    answer = connect(args).cancel(args.ids)
    if out.as_json:
        out.document(answer)
    else:
        rows = [(job_id, "cancelled") for job_id in answer.cancelled]
        out.table(
            ["job", "result"], rows + [(job_id, "was final") for job_id in answer.already_done]
        )
    return 0
