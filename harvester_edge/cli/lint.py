"""`harvester-edge lint`: all that is wrong with site files, each fault with file, line and remedy."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from ailurus.output import Output
from harvester_edge.cli.exits import CONFIGURATION, USAGE
from harvester_edge.tree import Fault


class LintAnswer(msgspec.Struct):
    """What `lint --json` prints."""

    faults: list[Fault]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="site files")


def main(args: Namespace, out: Output) -> int:
    """Look at each; warnings alone are no failure."""
    from harvester_edge import lint

    files = [*args.files, *([args.config] if args.config else [])]
    if not files:
        out.line("which file? harvester-edge lint --config FILE")
        return USAGE
    faults = [fault for file in files for fault in lint.faults(file)]
    errors = [fault for fault in faults if fault.rule.startswith("E")]
    if out.as_json:
        out.document(LintAnswer(faults))
    else:
        for fault in faults:
            out.line(str(fault))
        what = f"{len(errors)} faults" if len(errors) != 1 else "1 fault"
        out.line(f"{len(files)} file{'s' * (len(files) > 1)}: {what}")
    return CONFIGURATION if errors else 0
