"""`dispatcher retry`: final jobs submitted anew, as new jobs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from ailurus.protocol.states import JobState
from dispatcher.cli import selection
from dispatcher.cli.connection import connect

STATES = [str(JobState.FAILED), str(JobState.CLOSED)]
"""What a filter means: who wants cancelled jobs back says so."""


def arguments(parser: ArgumentParser) -> None:
    selection.arguments(parser)


def main(args: Namespace, out: Output) -> int:
    """Print the new job ids, in the order of the old ones."""
    from ailurus.protocol.messages import RetryMany, Submitted

    client = connect(args, patience_s=0.0)
    what = selection.chosen(client, args, out, "retry", STATES)
    if what is None:
        return 0
    if what.ids:
        ids, answer = what.ids, client.retry(what.ids)
    else:
        done = selection.carry(client, "retry_many", what, RetryMany)
        selection.show_reasons(done)
        ids, answer = list(done.job_ids), Submitted(job_ids=done.new_ids)
    if out.as_json:
        out.document(answer)
    else:
        out.table(["job", "new job"], zip(ids, answer.job_ids, strict=True))
    return 0
