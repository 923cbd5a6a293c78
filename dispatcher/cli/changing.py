"""What `priority`, `move`, `hold` and `release` have in common."""

from __future__ import annotations

from argparse import Namespace

from ailurus.output import Output
from dispatcher.cli import selection
from dispatcher.cli.connection import connect

WAITING = ["activated", "pending"]
"""What a filter means that does not speak of states."""


def change(args: Namespace, out: Output, verb: str, became: str, **given: object) -> int:
    """Do it to the jobs that are meant, and say what each `became`."""
    from ailurus.protocol.messages import ChangeMany

    client = connect(args)
    what = selection.chosen(client, args, out, verb, WAITING)
    if what is None:
        return 0
    answer = selection.carry(client, "change_many", what, ChangeMany, verb=verb, **given)
    selection.show_reasons(answer)
    if out.as_json:
        out.document(answer)
    else:
        out.table(["job", "result"], ((job_id, became) for job_id in answer.job_ids))
    return 0
