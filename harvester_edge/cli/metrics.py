"""`harvester-edge metrics`: the site's figures as Prometheus text. Reads the edge's book only."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ailurus.output import Output
from harvester_edge.cli.status import answer_of


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="for node_exporter's textfile collector: NAME.prom"
    )


def main(args: Namespace, out: Output) -> int:
    """Print or write."""
    from harvester_edge import lint, metrics

    site = lint.load(args.config)
    if args.out is not None:
        metrics.write(site, args.out)
    elif out.as_json:
        out.document(answer_of(site))
    else:
        out.raw(metrics.page(site).decode())
    return 0
