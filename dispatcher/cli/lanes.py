"""Use of nodes over time in characters: a line a node, a character a part of the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ailurus.output import Output, clock, span

if TYPE_CHECKING:
    from ailurus.protocol.messages import NodeLanes, Timeline

PARTS = 60
MOST_NODES, MOST_RUNS = 100, 30
_LEVELS = "·▁▂▃▄▅▆▇█"


def show(seen: Timeline, out: Output) -> None:
    """The nodes, then the runs that were last."""
    whole = seen.end - seen.begin
    out.line(f"\n{clock(seen.begin)} to {clock(seen.end)}, {span(whole)}:")
    out.table(
        ["node", "cores", "GPUs", "use", "over time"],
        (
            (
                node.name,
                node.cores,
                len(node.gpus) or "",
                share(_use(node), node.cores),
                strip(node),
            )
            for node in seen.nodes[:MOST_NODES]
        ),
    )
    if len(seen.nodes) > MOST_NODES:
        out.line(f"and {len(seen.nodes) - MOST_NODES} nodes more")
    if seen.cut:
        out.line("there are so many runs that the later ones were not looked at")
    if not seen.drawn:
        out.line(f"{seen.runs} runs are too many for a list")
        return
    bars = [(node, bar) for node in seen.nodes for bar in node.bars]
    bars.sort(key=lambda one: one[1].begin)
    out.line()
    out.table(
        ["run", "name", "state", "node", "cores", "GPUs", "began", "ran"],
        (
            (
                _number(bar.job_id, bar.item),
                bar.name,
                bar.state,
                node.name,
                sum(count for _, count in bar.cores),
                " ".join(node.gpus[gpu] for gpu in bar.gpus),
                clock(bar.begin),
                span((seen.end if bar.end is None else bar.end) - bar.begin),
            )
            for node, bar in bars[-MOST_RUNS:]
        ),
    )
    if len(bars) > MOST_RUNS:
        out.line(f"these are the last {MOST_RUNS} of {len(bars)} runs; --json has all")


def strip(node: NodeLanes) -> str:
    """A character for each part: how many of the cores were in use."""
    top = len(_LEVELS) - 1
    return "".join(
        _LEVELS[min(top, -int(-top * used // node.cores)) if node.cores else 0]
        for used in node.used
    )


def share(part: float, whole: float) -> str:
    """`42 %`; blank where there is no whole."""
    return f"{100 * part / whole:.0f} %" if whole else ""


def _use(node: NodeLanes) -> float:
    return sum(node.used) / len(node.used) if node.used else 0.0


def _number(job_id: int, item: int | None) -> str:
    if not job_id:
        return "somebody's"
    return str(job_id) if item is None else f"{job_id}.{item}"
