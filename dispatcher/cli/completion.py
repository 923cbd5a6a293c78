"""`dispatcher completion`: what a shell needs to complete verbs and options."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ailurus.completion import SHELLS, completion
from ailurus.output import Output


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def main(args: Namespace, out: Output) -> int:
    """Print it: `eval "$(dispatcher completion bash)"` in the shell's start-up file."""
    from dispatcher.cli import VERBS, parser_for

    sys.stdout.write(completion(parser_for(*VERBS), args.shell))
    return 0
