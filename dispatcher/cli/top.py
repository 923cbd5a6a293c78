"""`dispatcher top`: numbers and jobs, live in a terminal."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import CONFIGURATION, OK, USAGE, CommandError
from dispatcher.cli.words import some_time

EVERY_S = 2.0


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="QUERY", help="as in `state:failed 'age<2h'`: docs/query.md"
    )
    parser.add_argument(
        "--every", type=some_time, default=EVERY_S, metavar="2s", help="how often to look"
    )


def main(args: Namespace, out: Output) -> int:
    """Show it until the user leaves."""
    if out.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        remedy = "`dispatcher status` and `dispatcher jobs` print the same, also as JSON"
        raise CommandError(USAGE, "top needs a terminal", remedy=remedy)
    try:
        from dispatcher.cli.screen import Top
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", maxsplit=1)[0] != "textual":
            raise
        remedy = "pip install 'ailurus[dispatcher,top]'"
        raise CommandError(CONFIGURATION, "textual is not installed", remedy=remedy) from None
    client = connect(args, patience_s=args.every)
    client.overview()  # who is not let in is told before the screen is taken
    Top(client, " ".join(args.words), args.every).run()
    return OK
