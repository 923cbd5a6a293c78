"""`dispatcher hold`: jobs that wait are given to nobody until they are released."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli import changing, selection


def arguments(parser: ArgumentParser) -> None:
    selection.arguments(parser)


def main(args: Namespace, out: Output) -> int:
    """Hold what waits."""
    return changing.change(args, out, "hold", "held")
