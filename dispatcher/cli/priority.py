"""`dispatcher priority`: jobs that wait go before others, or behind them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli import changing, selection


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("number", type=int, metavar="N", help="higher goes first; new jobs have 0")
    selection.arguments(parser)


def main(args: Namespace, out: Output) -> int:
    """Give what waits another priority."""
    became = f"priority {args.number}"
    return changing.change(args, out, "priority", became, priority=args.number)
