"""The status of a site as a page of the terminal that moves by itself, until Ctrl-C."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ailurus.output import ago, clean
from harvester_edge.cli.status import SHOWN, headline
from harvester_edge.status import StatusAnswer

COLOURS = {"queued": "yellow", "starting": "cyan", "active": "green", "draining": "magenta"}
BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 40


def watch(look: Callable[[], StatusAnswer], period_s: float) -> None:
    """Show what `look` says, again and again. Ends by Ctrl-C."""
    history: deque[int] = deque(maxlen=WIDTH)
    with Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(page(look(), history), refresh=True)
            time.sleep(period_s)


def page(seen: StatusAnswer, history: deque[int]) -> RenderableType:
    """One picture; `history` gets the number of active workers."""
    history.append(sum(slot.phases.get("active", 0) for slot in seen.slots))
    parts: list[RenderableType] = [Text(clean(headline(seen)), style="bold"), Text()]
    slots = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("slot", "queue", "", *SHOWN, "failed starts"):
        slots.add_column(name, justify="right" if name in SHOWN else "left")
    most = max(1, seen.max_total)
    for slot in seen.slots:
        counts = [slot.phases.get(phase, 0) for phase in SHOWN]
        failures = str(slot.health.failures or "")
        cells = [str(n) if n else "·" for n in counts]
        slots.add_row(
            slot.slot or "(adopted)", slot.queue, _bar(counts, most), *cells, Text(failures, "red")
        )
    parts += [
        slots,
        Text(),
        Text(f"active  {_spark(history)} {history[-1]}", style="green"),
        Text(),
    ]
    if seen.decision is not None:
        parts.append(Text(f"{clean(seen.decision.sentence)} · since {ago(seen.decided)}"))
        why = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("limit", "leaves room for", "because"):
            why.add_column(name)
        for bound in seen.decision.bounds:
            binds = bound.name == seen.decision.binding.name
            row = (bound.name, str(max(0, bound.allowed)), clean(bound.why))
            why.add_row(*(Text(cell) for cell in row), style="bold" if binds else "dim")
        parts += [why]
        parts += [
            Text(clean(note), "dim") for note in (*seen.decision.inputs, *seen.decision.notes)
        ]
    return Group(*parts)


def _bar(counts: list[int], most: int) -> Text:
    """Workers by phase as a bar of which the full length is `max_total`."""
    bar = Text()
    for phase, n in zip(SHOWN, counts, strict=True):
        bar.append("█" * (n and max(1, round(n / most * WIDTH))), COLOURS[phase])
    bar.append("░" * max(0, WIDTH - len(bar)), "dim")
    return bar


def _spark(values: deque[int]) -> str:
    top = max(1, *values)
    return "".join(BLOCKS[round(n / top * (len(BLOCKS) - 1))] for n in values)
