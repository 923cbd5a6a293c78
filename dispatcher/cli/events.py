"""`dispatcher events`: what happened, in the order it was committed."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, clock
from dispatcher.cli.connection import connect

if TYPE_CHECKING:
    from ailurus.protocol.messages import Event

WAIT_S = 20.0


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import job_id

    parser.add_argument("--follow", "-f", action="store_true", help="then what comes, until Ctrl-C")
    parser.add_argument("--after", type=int, default=0, metavar="SEQ", help="only later ones")
    parser.add_argument("--job", type=job_id, metavar="ID", help="only of this job")


def main(args: Namespace, out: Output) -> int:
    """A line an event (JSON lines with --json)."""
    from ailurus.protocol.api import EventsQuery
    from ailurus.protocol.messages import Events

    client = connect(args, patience_s=60.0)
    after, wait_s = args.after, 0.0
    while True:
        query = EventsQuery(after=after, job_id=args.job, limit=1000, wait_s=wait_s)
        answer = client.call("events", query, answer=Events, wait_s=wait_s)
        for event in answer.events:
            if out.as_json:
                out.record(event)
            else:
                out.line(_line(event))
        after = max([after, *(event.seq for event in answer.events)])
        if not answer.events:
            if not args.follow:
                return 0
            wait_s = WAIT_S


def _line(event: Event) -> str:
    parts = [str(event.seq), clock(event.at), event.kind]
    parts += [f"job={event.job_id}"] if event.job_id is not None else []
    parts += [f"worker={event.worker_id}"] if event.worker_id is not None else []
    parts += [f"{key}={json.dumps(value, default=str)}" for key, value in event.data.items()]
    return " ".join(parts)
