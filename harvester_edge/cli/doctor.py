"""`harvester-edge doctor`: whether the site would work, asked of the dispatcher, the disks and the
batch system. Read-only: nothing is submitted."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import msgspec

from ailurus.output import Output
from harvester_edge.cli.exits import CONFIGURATION
from harvester_edge.doctor import Finding


class DoctorAnswer(msgspec.Struct):
    """What `doctor --json` prints."""

    findings: list[Finding]


MARK = {"good": "✓", "warning": "!", "bad": "✗"}


def arguments(parser: ArgumentParser) -> None:
    pass


def main(args: Namespace, out: Output) -> int:
    """Examine, and say what would help."""
    from harvester_edge.doctor import examine

    findings = []
    for one in examine(args.config):
        findings.append(one)
        if not out.as_json:
            out.line(f"{MARK[one.verdict]} {one.about}: {one.said}")
            if one.remedy:
                out.line(f"    {one.remedy}")
    if out.as_json:
        out.document(DoctorAnswer(findings))
    return CONFIGURATION if any(one.verdict == "bad" for one in findings) else 0
