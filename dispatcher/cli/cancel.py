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
    from ailurus.protocol.messages import Cancelled, CancelMany

    client = connect(args)
    what = selection.chosen(client, args, out, "cancel", STATES)
    if what is None:
        return 0
    if what.ids:
        answer = client.cancel(what.ids)
    else:
        done = selection.carry(client, "cancel_many", what, CancelMany)
        selection.show_reasons(done)
        answer = Cancelled(cancelled=done.job_ids, already_done=())
    if out.as_json:
        out.document(answer)
    else:
        rows = [(job_id, "cancelled") for job_id in answer.cancelled]
        out.table(
            ["job", "result"], rows + [(job_id, "was final") for job_id in answer.already_done]
        )
    return 0
