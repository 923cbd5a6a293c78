"""`dispatcher queues`: what waits, and what serves it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output, ago
from dispatcher.cli.connection import connect


def arguments(parser: ArgumentParser) -> None:
    """None of its own."""


def main(args: Namespace, out: Output) -> int:
    """Ask and show."""
    from ailurus.protocol.api import QueueRows

    answer = connect(args).call("queues", answer=QueueRows)
    if out.as_json:
        out.document(answer)
    else:
        out.table(
            ["queue", "jobs", "oldest", "workers", "sites", "groups", "problems"],
            (
                (
                    queue.name or "(any)",
                    " ".join(f"{state}={n}" for state, n in queue.states.items() if n),
                    ago(queue.oldest_waiting),
                    queue.workers,
                    ", ".join(queue.sites),
                    " ".join(
                        f"{one.name or '(none)'}={one.waiting} ({one.due:.0%})"
                        for one in queue.groups
                    ),
                    "; ".join(queue.troubles),
                )
                for queue in answer.queues
            ),
        )
    return 0
