"""`dispatcher cancel`: workers that run the jobs are told at their next heartbeat. What waited can
be brought back for a while, where it was cancelled with others: `dispatcher undo`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ailurus.output import Output, clock
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
    if len(what.ids) == 1:
        answer = client.cancel(what.ids)
    else:
        done = selection.carry(client, "cancel_many", what, CancelMany)
        if not what.ids:
            selection.show_reasons(done)
        final = sorted({*what.ids} - {*done.job_ids})
        answer = Cancelled(cancelled=done.job_ids, already_done=tuple(final))
        if done.undo and done.undo_until is not None:
            sys.stderr.write(
                f"{done.undo:,} of them waited; to bring these back until "
                f"{clock(done.undo_until)}: dispatcher undo {done.action}\n"
            )
    if out.as_json:
        out.document(answer)
    else:
        rows = [(job_id, "cancelled") for job_id in answer.cancelled]
        out.table(
            ["job", "result"], rows + [(job_id, "was final") for job_id in answer.already_done]
        )
    return 0
