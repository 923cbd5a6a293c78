"""`dispatcher get ID… [NAME…]`: what jobs, or their payloads, left in storage, brought here."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ailurus.output import Output
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import PLAIN_FILE
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import DATA, NO_INPUT, OK, USAGE, CommandError, code_of, line_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailurus.protocol.messages import FileRecord


_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="ID… [NAME…]", help="names may have * and ?")
    parser.add_argument(
        "--to",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="default: here; of several jobs, each has a directory of its number there",
    )
    parser.add_argument("--force", action="store_true", help="write over files that differ")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="HOST",
        help="storage that may see your credentials (AILURUS_TRUST, with commas between)",
    )


def main(args: Namespace, out: Output) -> int:
    """Bring the files; what fails is said, and the others are brought."""
    from dispatcher.cli.download import brought

    client, (ids, names) = connect(args), _parted(args.words)
    trusted = {*args.trust, *os.environ.get("AILURUS_TRUST", "").split(",")}
    jobs: dict[int, list[FileRecord]] = {}
    for job_id, item in ids:
        found = client.show(job_id).files if item is None else client.item(job_id, item).files
        jobs.setdefault(job_id, []).extend(_wanted(found, names))
    if not any(jobs.values()):
        asked = f"no file called {' or '.join(names)}" if names else "no files"
        what = f"job {args.words[0]} has" if len(ids) == 1 else "these jobs have"
        raise CommandError(
            NO_INPUT,
            f"{what} {asked} in storage",
            remedy="see `dispatcher files`; files are there once a job has finished",
        )
    code, rows = OK, []
    for job_id, files in jobs.items():
        here = args.to / str(job_id) if len(jobs) > 1 else args.to
        for file in files:
            path = here / file.name
            try:
                _check_name(file)
                how = brought(file, path, trusted, force=args.force)
            except AilurusError as error:
                sys.stderr.write(line_of(error, as_json=out.as_json))
                code = code or code_of(error)
            else:
                rows.append((job_id, file.name, file.size, how, path))
                if out.as_json:
                    out.record(file)
    if not out.as_json:
        out.table(["job", "file", "bytes", "result", "path"], rows)
    return code


def _parted(words: Sequence[str]) -> tuple[list[tuple[int, int | None]], list[str]]:
    """Numbers of jobs or of their payloads, and what follows them: names, which may be numbers,
    too."""
    from dispatcher.cli.words import item_id

    numbers = next((nr for nr, word in enumerate(words) if not _NUMBER.fullmatch(word)), len(words))
    if not numbers:
        raise CommandError(
            USAGE, f"{words[0]!r} is no number of a job", remedy="first say of which"
        )
    try:
        return list(dict.fromkeys(map(item_id, words[:numbers]))), list(words[numbers:])
    except ArgumentTypeError as error:
        raise CommandError(USAGE, str(error)) from None


def _wanted(files: Sequence[FileRecord], names: Sequence[str]) -> list[FileRecord]:
    """Those that are asked for."""
    return [f for f in files if not names or any(fnmatchcase(f.name, name) for name in names)]


def _check_name(file: FileRecord) -> None:
    """Raise CommandError for a name that no output can have. It is the word of the worker that
    left it, and a hidden file in a home directory may be one that is executed."""
    if not PLAIN_FILE.fullmatch(file.name):
        raise CommandError(
            DATA,
            f"{file.name!r} is no name of an output: its worker made it up",
            remedy=f"it is at {file.url}, if you want it all the same",
        )
