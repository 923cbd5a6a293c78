"""`harvester-edge doctor`: whether the site would work, asked of the dispatcher, the disks, the
batch system, storage, the catalogue and containers. Nothing stays of what it tries."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import msgspec

from ailurus.output import Output
from ailurus.protocol.finding import Finding
from harvester_edge.cli.exits import CONFIGURATION
from harvester_edge.cli.options import seconds


class DoctorAnswer(msgspec.Struct):
    """What `doctor --json` prints."""

    findings: list[Finding]


MARK = {"good": "✓", "warning": "!", "bad": "✗"}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--node",
        nargs="?",
        const="",
        metavar="SLOT",
        help="try storage and containers by a short job on a node (of this slot, else the first)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=600.0,
        metavar="TIME",
        help="for that job, queue included (10m)",
    )
    parser.add_argument(
        "--image", default="", help="of the container that is tried (default: one of the site's)"
    )
    parser.add_argument(
        "--no-probe",
        action="store_true",
        help="try neither storage nor containers: write nothing anywhere",
    )


def main(args: Namespace, out: Output) -> int:
    """Examine, and say what would help."""
    from harvester_edge.doctor import examine
    from harvester_edge.probe import ProbeRequest

    how = ProbeRequest(image=args.image, slot=args.node, wait_s=args.wait)
    findings = []
    for one in examine(args.config, None if args.no_probe else how):
        findings.append(one)
        if not out.as_json:
            out.line(f"{MARK[one.verdict]} {one.about}: {one.said}")
            if one.remedy:
                out.line(f"    {one.remedy}")
    if out.as_json:
        out.document(DoctorAnswer(findings))
    return CONFIGURATION if any(one.verdict == "bad" for one in findings) else 0
