"""`dispatcher backup`: queue and keys of a dispatcher, whether it runs or not, into a new
folder."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ailurus.output import Output
from dispatcher.cli import place
from dispatcher.cli.exits import CANNOT_CREATE, CommandError

KEYS = "keys.json"


def arguments(parser: ArgumentParser) -> None:
    place.arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="made, mode 700")


def main(args: Namespace, out: Output) -> int:
    """All of it or nothing: the folder gets its name when it is whole."""
    from dispatcher.auth import keys
    from dispatcher.store import archive

    folder: Path = args.out.absolute()
    if folder.exists():
        raise CommandError(
            CANNOT_CREATE, f"{folder} is there", field="--out", remedy="name a new folder"
        )
    kept = place.place_of(args.store, args.keys).keys
    keys.read(kept)
    draft = folder.with_name(f".{folder.name}.part")
    try:
        # Of one that was killed.
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        keys.keep(draft / KEYS, kept.read_bytes())
        copy = archive.save(args.store, draft)
        size = copy.stat().st_size
        draft.rename(folder)
    except OSError as error:
        raise CommandError(CANNOT_CREATE, f"cannot write {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    out.line(f"{size / 1e6:.1f} MB in {folder}; it holds the keys, so keep it as you keep them")
    return 0
