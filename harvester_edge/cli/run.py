"""`harvester-edge run`: provision the site until SIGTERM or Ctrl-C.

Workers outlive the edge: they go on, and the next edge of the site adopts them. `--drain-at-exit`
waits instead until each has finished what it has; a second SIGTERM leaves at once. `--standby`
waits while another login node's edge has the site, and takes over when that one falls silent.
"""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path

from ailurus import entry
from ailurus.output import Output
from harvester_edge.cli.options import address, log_to


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--drain-at-exit", action="store_true", help="on SIGTERM let all workers finish, then exit"
    )
    parser.add_argument(
        "--standby", action="store_true", help="wait while another edge has the site"
    )
    parser.add_argument(
        "--metrics-listen", type=address, metavar="HOST:PORT",
        help="answer Prometheus there; default: nowhere",
    )  # fmt: skip
    parser.add_argument("--log", type=Path, metavar="FILE", help="JSON lines; default: stderr")
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )


def main(args: Namespace, out: Output) -> int:
    """Run in the foreground."""
    from ailurus import logs
    from harvester_edge import daemon, lint
    from harvester_edge.edge import open_edge

    log_to(args.log, args.log_level)
    site = lint.load(args.config)
    stop, leave = threading.Event(), threading.Event()

    def on_signal(signum: int, frame: object) -> None:
        (leave if stop.is_set() else stop).set()

    with daemon.sole(site.state, site.site):
        edge = open_edge(site, logs.Log("edge", site=site.site))
        with closing(edge):
            for number in {signal.SIGTERM, signal.SIGINT} | entry.hangup():
                signal.signal(number, on_signal)
            if args.metrics_listen:
                from harvester_edge import metrics

                metrics.serve(site, args.metrics_listen)
            daemon.run(edge, stop, standby=args.standby)
            if args.drain_at_exit:
                daemon.drain_all(edge, leave)
    return 0
