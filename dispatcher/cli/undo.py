"""`dispatcher undo`: what a cancellation of many jobs stopped that waited, submitted anew."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli import selection
from dispatcher.cli.connection import connect


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import action_id

    parser.add_argument(
        "action",
        type=action_id,
        metavar="ACTION",
        help="its number, as `dispatcher cancel` said it",
    )


def main(args: Namespace, out: Output) -> int:
    """Print the new job ids beside the old ones."""
    from ailurus.protocol.messages import Submitted, Undo

    client = connect(args)
    done = selection.repeated(client, "undo", Undo(action=args.action))
    selection.show_reasons(done)
    if out.as_json:
        out.document(Submitted(job_ids=done.new_ids))
    elif not done.job_ids:
        out.line(f"what action {args.action} cancelled was brought back before")
    else:
        out.table(["job", "new job"], zip(done.job_ids, done.new_ids, strict=True))
    return 0
