"""`harvester-edge tick`: one cycle, then exit: what `run` does, from cron or a systemd timer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import closing

from ailurus.output import Output
from harvester_edge.cli.exits import NO_PERMISSION, UNAVAILABLE


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--log-level", default="warning", choices=["debug", "info", "warning", "error"]
    )


def main(args: Namespace, out: Output) -> int:
    """Do it, and show the decision."""
    from ailurus import logs
    from harvester_edge import daemon, lint
    from harvester_edge.cli.why import show
    from harvester_edge.edge import open_edge

    logs.configure(None, level=args.log_level)
    site = lint.load(args.config)
    with daemon.sole(site.state, site.site):
        edge = open_edge(site, logs.Log("edge", site=site.site))
        with closing(edge):
            decision = daemon.cycle(edge)
            at = edge.clock()
    show(out, site.site, at, decision)
    if edge.lease.refused:
        return NO_PERMISSION
    return UNAVAILABLE if decision.binding.name in ("dispatcher", "listing") else 0
