"""`harvester-edge status`: the site's workers in numbers. Reads the edge's book only."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, ago

if TYPE_CHECKING:
    from harvester_edge.site import Site
    from harvester_edge.status import StatusAnswer


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--watch", type=float, nargs="?", const=2.0, metavar="SECONDS",
        help="look again and again, each 2 s; on a terminal a page that moves by itself",
    )  # fmt: skip


def main(args: Namespace, out: Output) -> int:
    """Read and show."""
    from harvester_edge import lint

    site = lint.load(args.config)
    if args.watch is None:
        show(out, answer_of(site))
        return 0
    period = min(3600.0, max(0.2, args.watch))
    if out.terminal and not out.as_json:
        from harvester_edge.cli.watch import watch

        watch(lambda: answer_of(site), period)
    while True:
        show(out, answer_of(site), stream=True)
        time.sleep(period)


def answer_of(site: Site) -> StatusAnswer:
    """What is shown."""
    from harvester_edge.status import glance

    return glance(site)


SHOWN = ("queued", "starting", "active", "draining")


def show(out: Output, answer: StatusAnswer, *, stream: bool = False) -> None:
    """For people, or as JSON."""
    if out.as_json:
        (out.record if stream else out.document)(answer)
        return
    out.line(headline(answer))
    out.line()
    out.table(
        ["slot", "queue", *SHOWN, "other", "failed starts"],
        (
            (
                one.slot or "(adopted)",
                one.queue,
                *(one.phases.get(phase, 0) for phase in SHOWN),
                sum(n for phase, n in one.phases.items() if phase not in SHOWN),
                one.health.failures,
            )
            for one in answer.slots
        ),
    )
    out.line()
    for fault in answer.down:
        out.line(f"DOWN: {fault}")
    if answer.decision is not None:
        out.line(f"{answer.decision.sentence} · since {ago(answer.decided)}")
    now = time.time()
    for credential in answer.credentials:
        if trouble := credential.fault or credential.late(now):
            out.line(f"CREDENTIAL {credential.name}: {trouble}")
    for what in answer.wrong_machines:
        out.line(f"MACHINE {what}")
    for one in answer.slots:
        if one.health.failures:
            out.line(f"slot {one.slot}: last failed start: {one.health.reason}")


def headline(answer: StatusAnswer) -> str:
    """Whether the edge runs, in a line."""
    edge = f"runs, process {answer.running}" if answer.running else "does not run"
    paused = "; paused" if answer.paused else ""
    budget = ""
    if answer.budget is not None:
        budget = f"; {answer.node_hours:.1f} of {answer.budget:.1f} node-hours are spent"
    looked = f"last looked {ago(answer.looked)} ago"
    return f"{answer.site}: the edge {edge}, {looked}{paused}{budget}"
