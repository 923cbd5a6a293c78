"""`harvester-edge pause`: submit nothing more. Honoured within a cycle, by a daemon or by
`tick`."""

from __future__ import annotations

import errno
import getpass
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from ailurus.output import Output


class WordAnswer(msgspec.Struct, kw_only=True):
    """What `pause`, `drain` and `resume` print with `--json`: what holds from now on."""

    site: str
    paused: bool
    draining: bool


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--reason", default="", help="shown by `status` and `why`")


def main(args: Namespace, out: Output) -> int:
    """Write the file."""
    return word(args, out, "pause")


def word(args: Namespace, out: Output, name: str) -> int:
    """Say a word to the edge of a site; said twice it is the same word."""
    from harvester_edge import lint
    from harvester_edge.files import write_whole
    from harvester_edge.owned import own

    site = lint.load(args.config)
    own(site.state, "paths.state")
    reason = args.reason or f"by {_who()}"
    try:
        write_whole(site.state / name, f"{reason}\n".encode())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EEXIST):
            raise
        # A full disk has room for the word, if not for the reason; and somebody else may say it
        # just now.
        (site.state / name).touch()
    return show(out, site.site, site.state)


def show(out: Output, site: str, state: Path) -> int:
    """What holds now."""
    from harvester_edge.status import WORDS

    paused, draining = ((state / name).exists() for name in WORDS)
    if out.as_json:
        out.document(WordAnswer(site=site, paused=paused, draining=draining))
    elif draining:
        out.line(f"{site} is drained: pilots finish what they have, and no new one is submitted")
    elif paused:
        out.line(f"{site} is paused: no new pilot is submitted")
    else:
        out.line(f"{site} is online again")
    return 0


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In some containers a user is a number alone.
        return f"user {os.getuid()}"
