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
    client = connect(args, patience_s=0.0)
    ids = selection.chosen(client, args, out, "retry", STATES)
    if not ids:
        return 0
    answer = client.retry(ids)
    if out.as_json:
        out.document(answer)
    else:
        out.table(["job", "new job"], zip(ids, answer.job_ids, strict=True))
    return 0
