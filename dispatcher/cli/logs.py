"""`dispatcher logs ID`: a job's output, live with --follow."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, clean
from dispatcher.cli.connection import connect

if TYPE_CHECKING:
    from ailurus.wire.client import Client

WAIT_S = 20.0


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", type=int, metavar="ID")
    parser.add_argument("--follow", "-f", action="store_true", help="until the attempt has ended")
    parser.add_argument("--stream", choices=["stdout", "stderr"], default="stdout")
    parser.add_argument("--attempt", type=int, metavar="N", help="default: the latest")


def main(args: Namespace, out: Output) -> int:
    """Print what is there; with --follow, then what comes."""
    from ailurus.protocol.api import LogQuery

    client = connect(args, patience_s=60.0)
    offset, wait_s = 0, 0.0
    while True:
        query = LogQuery(stream=args.stream, attempt_nr=args.attempt, offset=offset, wait_s=wait_s)
        chunk = client.log(args.id, query)
        if out.as_json:
            out.record(chunk)
        else:
            out.raw(chunk.text)
        moved = chunk.end > offset
        offset = chunk.end
        if not moved and (chunk.final or not args.follow):
            if not offset:
                _say_why_nothing(client, args.id)
            return 0
        wait_s = WAIT_S if args.follow and not chunk.final else 0.0


def _say_why_nothing(client: Client, job_id: int) -> None:
    """An empty output needs no words, unless nothing has run that could have written it."""
    job = client.show(job_id)
    if not job.attempts:
        sys.stderr.write(clean(f"dispatcher: job {job_id} is {job.row.state}, and has not run\n"))
