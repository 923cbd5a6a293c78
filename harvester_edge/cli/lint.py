"""`harvester-edge lint`: all that is wrong with site files, each fault with file, line and
remedy."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from ailurus.output import Output
from harvester_edge.cli.exits import CONFIGURATION, USAGE
from harvester_edge.lint.document import Fault


class LintAnswer(msgspec.Struct):
    """What `lint --json` prints."""

    faults: list[Fault]


class RulesAnswer(msgspec.Struct):
    """What `lint --rules --json` prints."""

    rules: dict[str, str]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="site files")
    parser.add_argument("--rules", action="store_true", help="list the rules and end")


def main(args: Namespace, out: Output) -> int:
    """Look at each; warnings alone are no failure."""
    from harvester_edge import lint
    from harvester_edge.lint.rules import RULES

    if args.rules:
        if out.as_json:
            out.document(RulesAnswer(RULES))
        else:
            out.table(["rule", "finds"], RULES.items())
        return 0
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
        warnings = len(faults) - len(errors)
        what += f", {warnings} warning{'s' * (warnings > 1)}" * bool(warnings)
        out.line(f"{len(files)} file{'s' * (len(files) > 1)}: {what}")
    return CONFIGURATION if errors else 0
