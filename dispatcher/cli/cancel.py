"""`dispatcher cancel`: workers that run the jobs are told at their next heartbeat."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from ailurus.protocol.states import OPEN
from dispatcher.cli import selection
from dispatcher.cli.connection import connect

STATES = sorted(OPEN)


def arguments(parser: ArgumentParser) -> None:
    selection.arguments(parser)


def main(args: Namespace, out: Output) -> int:
    """Cancel what is not final yet."""
    client = connect(args)
    ids = selection.chosen(client, args, out, "cancel", STATES)
    if not ids:
        return 0
    answer = client.cancel(ids)
    if out.as_json:
        out.document(answer)
    else:
        rows = [(job_id, "cancelled") for job_id in answer.cancelled]
        out.table(
            ["job", "result"], rows + [(job_id, "was final") for job_id in answer.already_done]
        )
    return 0
