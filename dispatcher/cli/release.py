"""`dispatcher release`: held jobs wait with all others again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli import changing, selection


def arguments(parser: ArgumentParser) -> None:
    selection.arguments(parser)


def main(args: Namespace, out: Output) -> int:
    """Release what is held."""
    return changing.change(args, out, "release", "released")
