"""`dispatcher why ID`: one sentence, then what holds the job back."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from ailurus.protocol.states import Outlook
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import NEVER, OK


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import item_id

    parser.add_argument("id", type=item_id, metavar="ID", help="of a job, or JOB.ITEM of a payload")


def main(args: Namespace, out: Output) -> int:
    """Ask and show; exit code 2 says that the job can never run as things are."""
    code = _answered(args, out)
    if out.terminal and not out.as_json:
        job_id, index = args.id
        which = job_id if index is None else f"{job_id}.{index}"
        sys.stderr.write(
            f"How was this answer? dispatcher feedback 1-5 'a line of text' --about 'why {which}'\n"
        )
    return code


def _answered(args: Namespace, out: Output) -> int:
    job_id, index = args.id
    if index is not None:
        item = connect(args).item(job_id, index)
        if out.as_json:
            out.document(item)
        else:
            out.line(item.why)
            if item.remedy:
                out.line(f"  → {item.remedy}")
        return OK
    why = connect(args).why(job_id)
    if out.as_json:
        out.document(why)
    else:
        out.line(why.sentence)
        for blocker in why.blockers:
            out.line(f"  - {blocker}")
        if why.remedy:
            out.line(f"  → {why.remedy}")
    return NEVER if why.verdict == Outlook.NEVER else OK
