"""`dispatcher move`: jobs that wait go to another queue."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli import changing, selection


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("to", metavar="QUEUE", help='where they wait from now on; "": in any queue')
    selection.arguments(parser)


def main(args: Namespace, out: Output) -> int:
    """Move what waits."""
    return changing.change(args, out, "move", f"in {args.to or 'any queue'}", queue=args.to)
