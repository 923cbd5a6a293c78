"""`dispatcher completion`: what a shell needs to complete verbs and options."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ailurus.output import Output

SHELLS = ("bash", "zsh", "fish")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def main(args: Namespace, out: Output) -> int:
    """Print it: `eval "$(dispatcher completion bash)"` in the shell's start-up file."""
    import shtab

    from dispatcher.cli import VERBS, parser_for

    sys.stdout.write(shtab.complete(parser_for(*VERBS), args.shell))
    return 0
