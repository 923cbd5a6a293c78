"""`harvester-edge status`: the site's workers in numbers. Reads the edge's book only."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter

import msgspec

from ailurus.output import Output, ago
from harvester_edge.cli.pause import WORDS
from harvester_edge.decide import Decision, Health


class SlotStatus(msgspec.Struct, kw_only=True):
    """A slot: its workers by phase, and how the last ones started."""

    slot: str
    queue: str
    phases: dict[str, int]
    health: Health


class StatusAnswer(msgspec.Struct, kw_only=True):
    """What `status --json` prints."""

    site: str
    running: int | None
    looked: float | None
    paused: bool
    max_total: int
    slots: list[SlotStatus]
    decision: Decision | None
    decided: float | None


def arguments(parser: ArgumentParser) -> None:
    pass


def main(args: Namespace, out: Output) -> int:
    """Read and show."""
    from harvester_edge import lint
    from harvester_edge.book import Book
    from harvester_edge.daemon import holder, last_look

    site = lint.load(args.config)
    book = Book(site.state / "book.sqlite", site=site.site, read_only=True)
    phases = Counter((worker.slot, str(worker.phase)) for worker in book.live())
    names = {name: slot.queue for name, slot in site.slots.items()}
    names |= {slot: "-" for slot, _ in phases if slot not in names}
    last = book.decisions(1)
    answer = StatusAnswer(
        site=site.site,
        running=holder(site.state),
        looked=last_look(site.state),
        paused=site.policy.status != "online"
        or any((site.state / name).exists() for name in WORDS),
        max_total=site.scaling.max_total,
        slots=[
            SlotStatus(
                slot=slot,
                queue=queue,
                phases={phase: n for (of, phase), n in phases.items() if of == slot},
                health=book.health(slot),
            )
            for slot, queue in names.items()
        ],
        decision=last[0].decision if last else None,
        decided=last[0].at if last else None,
    )
    if out.as_json:
        out.document(answer)
    else:
        _show(out, answer)
    return 0


def _show(out: Output, answer: StatusAnswer) -> None:
    edge = f"runs, process {answer.running}" if answer.running else "does not run"
    paused = "; paused" if answer.paused else ""
    out.line(f"{answer.site}: the edge {edge}, last looked {ago(answer.looked)} ago{paused}")
    out.line()
    shown = ("queued", "starting", "active", "draining")
    out.table(
        ["slot", "queue", *shown, "other", "failed starts"],
        (
            (
                one.slot or "(adopted)",
                one.queue,
                *(one.phases.get(phase, 0) for phase in shown),
                sum(n for phase, n in one.phases.items() if phase not in shown),
                one.health.failures,
            )
            for one in answer.slots
        ),
    )
    out.line()
    if answer.decision is not None:
        out.line(f"{answer.decision.sentence} · since {ago(answer.decided)}")
    for one in answer.slots:
        if one.health.failures:
            out.line(f"slot {one.slot}: last failed start: {one.health.reason}")
