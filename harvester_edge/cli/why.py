"""`harvester-edge why`: the last decision, each limit of it, and the one that binds.

It reads the edge's book and nothing else: it answers while the edge and the dispatcher are down.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import closing

import msgspec

from ailurus.output import Output, ago
from harvester_edge.book import Decided
from harvester_edge.cli.options import count
from harvester_edge.decide import Decision


class WhyAnswer(msgspec.Struct, kw_only=True):
    """What `why --json` prints."""

    site: str
    since: float
    decision: Decision
    running: int | None = None
    """The edge's process id."""
    looked: float | None = None
    """When it last looked."""
    down: tuple[str, ...] = ()
    """Loops that do not do their work, and why."""


class HistoryAnswer(msgspec.Struct, kw_only=True):
    """What `why --history N --json` prints."""

    site: str
    decisions: list[Decided]
    """The latest last."""
    running: int | None = None
    looked: float | None = None


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--history", type=count, metavar="N", help="the last N decisions")


def main(args: Namespace, out: Output) -> int:
    """Read and show."""
    from harvester_edge import lint
    from harvester_edge.book import Book
    from harvester_edge.cli.exits import NotFound
    from harvester_edge.daemon import holder, last_look
    from harvester_edge.status import down

    site = lint.load(args.config)
    with closing(Book(site.state / "book.sqlite", site=site.site, read_only=True)) as book:
        decided = book.decisions(args.history or 1)[::-1]
    if not decided:
        raise NotFound("no decision has been made yet", remedy="`harvester-edge run` or `tick`")
    running, looked = holder(site.state), last_look(site.state)
    if out.as_json and args.history:
        out.document(
            HistoryAnswer(site=site.site, decisions=decided, running=running, looked=looked)
        )
        return 0
    for one in decided:
        show(out, site.site, one.at, one.decision, running, looked, down(site))
    return 0


def show(
    out: Output,
    site: str,
    since: float,
    decision: Decision,
    running: int | None = None,
    looked: float | None = None,
    down: tuple[str, ...] = (),
) -> None:
    """A decision, for people or as JSON."""
    if out.as_json:
        out.document(
            WhyAnswer(
                site=site, since=since, decision=decision, running=running, looked=looked, down=down
            )
        )
        return
    for fault in down:
        out.line(f"DOWN: {fault}")
    out.line(f"{site}: {decision.sentence}")
    out.line(f"decided {ago(since)} ago" + _edge(running, looked))
    out.line()
    out.table(
        ["limit", "leaves room for", "because"],
        (
            (
                "→ " + bound.name if bound is _binding(decision) else bound.name,
                max(0, bound.allowed),
                bound.why,
            )
            for bound in decision.bounds
        ),
    )
    out.line()
    for text in decision.inputs:
        out.line(f"seen: {text}")
    for note in decision.notes:
        out.line(f"note: {note}")


def _binding(decision: Decision) -> object:
    return next(one for one in decision.bounds if one == decision.binding)


def _edge(running: int | None, looked: float | None) -> str:
    if running is None and looked is None:
        return ""
    seen = f", last looked {ago(looked)} ago" if looked else ""
    return f"; the edge runs (process {running}){seen}" if running else f"; no edge runs now{seen}"
