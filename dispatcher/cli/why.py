"""`dispatcher why ID`: one sentence, then what holds the job back."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from ailurus.protocol.states import Outlook
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import NEVER, OK


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import job_id

    parser.add_argument("id", type=job_id, metavar="ID")


def main(args: Namespace, out: Output) -> int:
    """Ask and show; exit code 2 says that the job can never run as things are."""
    why = connect(args).why(args.id)
    if out.as_json:
        out.document(why)
    else:
        out.line(why.sentence)
        for blocker in why.blockers:
            out.line(f"  - {blocker}")
        if why.remedy:
            out.line(f"  → {why.remedy}")
    return NEVER if why.verdict == Outlook.NEVER else OK
