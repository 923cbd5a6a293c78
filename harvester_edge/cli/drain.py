"""`harvester-edge drain`: let every pilot finish what it has, and submit nothing more. Kills
nothing."""

from __future__ import annotations

from argparse import Namespace

from ailurus.output import Output
from harvester_edge.cli.pause import arguments, word

__all__ = ["arguments", "main"]


def main(args: Namespace, out: Output) -> int:
    """Write the file."""
    return word(args, out, "drain")
