"""`dispatcher workers`: batch allocations and their pilots' heartbeats."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, ago
from ailurus.protocol.hardware import in_words
from dispatcher.cli.connection import connect

if TYPE_CHECKING:
    from ailurus.protocol.messages import WorkerRow


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--site", default="", help="only of this site")
    parser.add_argument("--ended", action="store_true", help="also those that ended")
    parser.add_argument(
        "--limit",
        type=int,
        default=10_000,
        help="at most so many, the newest (default %(default)s)",
    )


def main(args: Namespace, out: Output) -> int:
    """Ask and show."""
    from ailurus.protocol.api import WorkerRows, WorkersQuery

    answer = connect(args).call(
        "workers",
        WorkersQuery(site=args.site, ended=args.ended, limit=args.limit),
        answer=WorkerRows,
    )
    if out.as_json:
        out.document(answer)
    else:
        out.table(
            ["worker", "site", "queue", "host", "phase", "heard", "cores free", "jobs", "batch id",
             "machine"],
            (
                (
                    w.worker_id, w.site, w.queue, _where(w), w.ending or w.phase, ago(w.last_heard),
                    f"{w.room.together.cores}/{w.total.together.cores}", len(w.jobs), w.batch_id,
                    in_words(w.hardware) if w.hardware else "",
                )
                for w in answer.workers
            ),
        )  # fmt: skip
    if len(answer.workers) < answer.total:
        sys.stderr.write(
            f"dispatcher: these are the newest {len(answer.workers)} of {answer.total} workers\n"
        )
    return 0


def _where(worker: WorkerRow) -> str:
    """Its host, and how many nodes it has beside that."""
    others = sum(group.nodes for group in worker.total.groups) - 1
    return f"{worker.host} +{others}" if others > 0 else worker.host
