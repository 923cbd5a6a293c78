"""`harvester-edge metrics`: the site's figures as Prometheus text. Reads the edge's book only."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from errno import EISDIR
from os import strerror
from pathlib import Path
from typing import TYPE_CHECKING

from ailurus.output import Output
from harvester_edge.cli.status import answer_of

if TYPE_CHECKING:
    from harvester_edge.site import Site


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="for node_exporter's textfile collector: NAME.prom"
    )


def main(args: Namespace, out: Output) -> int:
    """Print or write."""
    from harvester_edge import lint, metrics

    site = lint.load(args.config)
    if args.out is not None:
        _write(site, args.out)
    elif out.as_json:
        out.document(answer_of(site))
    else:
        out.raw(metrics.page(site).decode())
    return 0


def _write(site: Site, file: Path) -> None:
    from harvester_edge import metrics
    from harvester_edge.cli.exits import CannotCreate

    try:
        # Asked first: the page would be written beside it before that is found.
        if file.is_dir():
            raise IsADirectoryError(EISDIR, strerror(EISDIR))
        metrics.write(site, file)
    except OSError as error:
        message = f"cannot write {file}: {error.strerror}"
        remedy = "a file in a directory of yours"
        raise CannotCreate(message, field="--out", remedy=remedy) from None
