"""`harvester-edge relay`: let pilots of nodes without a route out reach the dispatcher, until
SIGTERM.

A process of its own beside `run`: either may be restarted without the other. What it has answered
is on disk, so kill -9 loses nothing.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ailurus.output import Output
from harvester_edge.cli.options import log_to, seconds


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--heartbeat", type=seconds, default=10.0, metavar="10s", help="how often pilots report"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="JSON lines; default: stderr")
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )


def main(args: Namespace, out: Output) -> int:
    """Run in the foreground."""
    from ailurus import logs
    from harvester_edge import daemon, lint
    from harvester_edge.relay.serve import run

    log_to(args.log, args.log_level)
    site = lint.load(args.config)
    with daemon.sole(site.relay_state, site.site):
        run(site, logs.Log("relay", site=site.site), args.heartbeat)
    return 0
