"""`dispatcher status`: the whole system in numbers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output, ago
from dispatcher.cli.connection import connect


def arguments(parser: ArgumentParser) -> None:
    """None of its own."""


def main(args: Namespace, out: Output) -> int:
    """Ask for the overview and show it."""
    seen = connect(args).overview()
    if out.as_json:
        out.document(seen)
        return 0
    if seen.troubles:
        out.table(
            ["problem", "since", "what helps"],
            ((one.sentence, ago(one.since, seen.now), one.remedy) for one in seen.troubles),
        )
        out.line()
    out.table(["jobs", "count"], seen.states.items())
    out.line()
    pilots = seen.pilots
    out.pairs(
        [
            ("workers", ", ".join(f"{n} {phase}" for phase, n in seen.workers.items()) or "none"),
            ("pilots", f"{pilots.alive} alive, {pilots.used} of {pilots.cores} cores in use"),
            ("finished/min", round(seen.finished_per_min, 1)),
            ("failed/min", round(seen.failed_per_min, 1)),
            ("version", seen.version),
        ]
    )
    if seen.failures:
        out.line()
        out.table(
            ["failed", "code", "diagnosis", "last", "which"],
            (
                (
                    row.jobs,
                    row.code or "",
                    row.diagnosis,
                    ago(row.last, seen.now),
                    f"dispatcher jobs --kind {row.kind}",
                )
                for row in seen.failures
            ),
        )
        if (more := seen.failure_kinds - len(seen.failures)) > 0:
            out.line(f"and {more} more kinds")
    if seen.queues:
        out.line()
        out.table(
            ["queue", "jobs", "oldest", "workers", "sites"],
            (
                (
                    queue.name or "(any)",
                    " ".join(f"{state}={n}" for state, n in queue.states.items() if n),
                    ago(queue.oldest_waiting, seen.now),
                    queue.workers,
                    ", ".join(queue.sites),
                )
                for queue in seen.queues
            ),
        )
    return 0
