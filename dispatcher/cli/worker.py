"""`dispatcher worker ID`: what ran on the nodes of one worker, and why their cores were idle."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, ago, clock, span
from ailurus.protocol.hardware import in_words
from dispatcher.cli import lanes, show, words
from dispatcher.cli.connection import connect

if TYPE_CHECKING:
    from ailurus.protocol.messages import Timeline

REASONS = {
    "nothing": "nothing to do",
    "staging_in": "inputs were staged in",
    "staging_out": "outputs were staged out",
    "wide": "kept for a job that did not fit yet",
    "payloads": "too few payloads of a job that held them",
    "draining": "draining",
    "lost": "their node was lost",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", type=int, metavar="ID", help="as `dispatcher workers` lists it")
    times(parser)


def times(parser: ArgumentParser) -> None:
    """The options that choose a time."""
    parser.add_argument(
        "--from",
        dest="begin",
        type=words.moment,
        metavar="TIME",
        help="such as '2026-11-30 20:15', or 90m for so long ago",
    )
    parser.add_argument("--to", dest="end", type=words.moment, metavar="TIME")


def main(args: Namespace, out: Output) -> int:
    """Ask and show."""
    from ailurus.protocol.api import WorkerTimelineQuery
    from ailurus.protocol.messages import Timeline

    ask = WorkerTimelineQuery(worker_id=args.id, begin=args.begin, end=args.end, parts=lanes.PARTS)
    seen = connect(args).call("worker_timeline", ask, answer=Timeline)
    if out.as_json:
        out.document(seen)
        return 0
    _facts(seen, out)
    lanes.show(seen, out)
    if seen.used:
        out.line("\nwhat its jobs have used so far:")
        show.used_on(seen.used, out)
    return 0


def _facts(seen: Timeline, out: Output) -> None:
    worker = seen.worker
    if worker is not None:
        out.pairs(
            [
                ("worker", f"{worker.worker_id} on {worker.host}"),
                ("state", worker.ending or worker.phase),
                ("why", worker.diagnosis),
                ("site", worker.site),
                ("queue", worker.queue),
                ("batch id", worker.batch_id),
                ("machine", in_words(worker.hardware) if worker.hardware else ""),
                ("began", clock(worker.registered)),
                ("heard", ago(worker.last_heard)),
                ("jobs", " ".join(map(str, worker.jobs))),
            ]
        )
    if seen.busy_core_s is None:
        out.line("\nits pilot does not tell why cores are idle")
        return
    whole = seen.busy_core_s + sum(seen.idle_core_s.values())
    idle = sorted(seen.idle_core_s.items(), key=lambda one: -one[1])
    rows = [("busy", seen.busy_core_s), *((REASONS.get(why, why), core_s) for why, core_s in idle)]
    out.line()
    out.table(
        ["cores were", "core time", "share"],
        ((what, span(core_s), lanes.share(core_s, whole)) for what, core_s in rows),
    )
