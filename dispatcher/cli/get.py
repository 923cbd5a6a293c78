"""`dispatcher get ID… [NAME…]`: what jobs, or their payloads, left in storage, brought here."""

from __future__ import annotations

import os
import re
import sys
import zlib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ailurus.output import Output
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import PLAIN_FILE
from ailurus.protocol.uploads import is_upload, upload_of
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import DATA, NO_INPUT, OK, USAGE, CommandError, code_of, line_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailurus.protocol.messages import FileRecord
    from ailurus.wire.client import Client


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
    parser.add_argument(
        "--inputs", action="store_true", help="what travelled with the jobs, in place of outputs"
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
    jobs: dict[int, list[tuple[FileRecord, bytes | None]]] = {}
    for job_id, item in ids:
        found = (_inputs if args.inputs else _outputs)(client, job_id, item, names)
        jobs.setdefault(job_id, []).extend(found)
    if not any(jobs.values()):
        raise _none(args, ids, names)
    code, rows = OK, []
    for job_id, files in jobs.items():
        here = args.to / str(job_id) if len(jobs) > 1 else args.to
        for file, contents in files:
            path = here / file.name
            try:
                _check_name(file)
                how = brought(file, path, trusted, force=args.force, contents=contents)
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


def _none(args: Namespace, ids: Sequence[object], names: Sequence[str]) -> CommandError:
    """That there is nothing to bring."""
    asked = f"no file called {' or '.join(names)}" if names else "no files"
    what = f"job {args.words[0]} has" if len(ids) == 1 else "these jobs have"
    if args.inputs:
        return CommandError(
            NO_INPUT,
            f"{what} {asked} among what travelled with the job",
            remedy="see `dispatcher show`; other inputs are where they were",
        )
    return CommandError(
        NO_INPUT,
        f"{what} {asked} in storage",
        remedy="see `dispatcher files`; files are there once a job has finished",
    )


def _outputs(
    client: Client, job_id: int, item: int | None, names: Sequence[str]
) -> list[tuple[FileRecord, bytes | None]]:
    """What is asked for of what a job, or a payload of its, left in storage."""
    found = client.show(job_id).files if item is None else client.item(job_id, item).files
    return [(file, None) for file in found if _asked(file.name, names)]


def _inputs(
    client: Client, job_id: int, item: int | None, names: Sequence[str]
) -> list[tuple[FileRecord, bytes | None]]:
    """What is asked for of what travelled with a job, compared with what the job says of it.
    Raises CommandError."""
    from ailurus.protocol.api import FileQuery
    from ailurus.protocol.messages import FileRecord

    if item is not None:
        raise CommandError(
            USAGE, "files travel with jobs, and not with their payloads", remedy="name the job"
        )
    brought: list[tuple[FileRecord, bytes | None]] = []
    for one in client.show(job_id).spec.inputs:
        if not is_upload(one.url) or not _asked(one.name, names):
            continue
        contents = client.contents("file", FileQuery(name=one.name), job_id=job_id)
        if sha256(contents).hexdigest() != upload_of(one.url).digest:
            raise CommandError(
                DATA, f"{one.name} is not what job {job_id} had", remedy="ask for it again"
            )
        adler32 = f"{zlib.adler32(contents):08x}"
        file = FileRecord(name=one.name, url=one.url, size=len(contents), adler32=adler32)
        brought.append((file, contents))
    return brought


def _asked(file: str, names: Sequence[str]) -> bool:
    return not names or any(fnmatchcase(file, name) for name in names)


def _check_name(file: FileRecord) -> None:
    """Raise CommandError for a name that no output can have. It is the word of the worker that
    left it, and a hidden file in a home directory may be one that is executed."""
    if not PLAIN_FILE.fullmatch(file.name):
        raise CommandError(
            DATA,
            f"{file.name!r} is no name of an output: its worker made it up",
            remedy=f"it is at {file.url}, if you want it all the same",
        )
