"""`dispatcher restore`: a dispatcher's queue and keys from a back-up, where there are none."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ailurus.output import Output
from ailurus.protocol.shown import shown
from dispatcher.cli import place
from dispatcher.cli.backup import KEYS
from dispatcher.cli.exits import NO_INPUT, CommandError


def arguments(parser: ArgumentParser) -> None:
    place.arguments(parser)
    parser.add_argument(
        "--from", dest="folder", required=True, type=Path, metavar="DIR", help="of a back-up"
    )


def main(args: Namespace, out: Output) -> int:
    """The queue first: keys without it would be of no use."""
    from dispatcher.auth import keys
    from dispatcher.store import archive

    backed = args.folder / KEYS
    if not backed.is_file():
        raise CommandError(NO_INPUT, f"{args.folder} is no back-up", field="--from")
    keys.read(backed)
    archive.load(args.store, args.folder)
    there = place.place_of(args.store, args.keys)
    fresh = keys.keep(there.keys, backed.read_bytes())
    if not fresh and there.keys.read_bytes() != backed.read_bytes():
        out.line(f"{there.keys} is there and stays: tokens made with the back-up's are not good")
    out.line(f"next: dispatcher serve --store {shown(args.store)}")
    return 0
