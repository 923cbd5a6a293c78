"""`harvester-edge workers`: each worker, living ones first. Reads the edge's book only."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import closing

import msgspec

from ailurus.output import Output, ago
from harvester_edge.cli.options import count
from harvester_edge.evidence import Worker


class WorkersAnswer(msgspec.Struct):
    """What `workers --json` prints."""

    site: str
    workers: list[Worker]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--limit", type=count, default=50, metavar="N", help="at most so many")


def main(args: Namespace, out: Output) -> int:
    """Read and show."""
    from harvester_edge import lint
    from harvester_edge.book import Book

    site = lint.load(args.config)
    with closing(Book(site.state / "book.sqlite", site=site.site, read_only=True)) as book:
        workers = book.recent(args.limit)
    if out.as_json:
        out.document(WorkersAnswer(site.site, workers))
    else:
        show(out, workers)
    return 0


def show(out: Output, workers: list[Worker]) -> None:
    """A table of workers."""
    out.table(
        ["intent", "slot", "phase", "planned", "batch id", "worker", "said"],
        (
            (
                f"{one.intent}.{one.index}", one.slot, one.ending or one.phase, ago(one.planned),
                one.batch_id, one.worker_id or "", _short(one.diagnosis),
            )
            for one in workers
        ),
    )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) < 100 else f"…{text[-99:]}"
