"""Draws the page of states from its tables: `python docs/draw_states.py > docs/states.md`."""

from __future__ import annotations

import sys

from ailurus.protocol.item import ITEM_TABLE, ItemState
from ailurus.protocol.states import (
    ATTEMPT_TABLE,
    FIRST,
    FIRST_OF_ATTEMPT,
    NEXT,
    TABLE,
    UNUSED,
    WITH_WORKER,
    AttemptState,
    JobState,
)

HEAD = """# The life of a job, and of an attempt

Drawn from the tables in `ailurus/protocol/states.py` by `docs/draw_states.py`; a test compares them.
A job is in one of PanDA's states. Those that nothing leads to are PanDA's own, and no job here is ever in
them. Every state from `pending` to `holding` can also become `cancelled` or `failed`: these arrows are left
out of the picture.
"""

OF_ATTEMPTS = """
## An attempt

A worker has it from `sent` to `holding`, in the state of its job. Every other state is an end, though
a `lost` attempt may go on, and may still finish. Attempts are `alreadydone` or `badattemptnr` if
their report was refused, as it came too late.
"""

OF_ITEMS = """
## An item

One of the [payloads that a job carries](jobs.md#many-payloads-in-one-job); the table is in
`ailurus/protocol/item.py`. A pilot has it while it is `leased` or `running`.
"""


def page() -> str:
    """The page as text."""
    lines = [HEAD, "```mermaid", "stateDiagram-v2", f"    [*] --> {FIRST}"]
    for change, step in TABLE.items():
        if step.to not in (JobState.CANCELLED, JobState.FAILED):
            lines += [
                f"    {state} --> {step.to}: {change}" for state in JobState if state in step.start
            ]
    lines += [f"    {state} --> [*]" for state in JobState if state in NEXT and not NEXT[state]]
    lines += ["```", "", "| change | from | to | when |", "|---|---|---|---|"]
    for change, step in TABLE.items():
        states = ", ".join(f"`{state}`" for state in JobState if state in step.start)
        lines.append(f"| {change} | {states} | `{step.to}` | {step.when} |")
    lines += ["", "| state | a worker holds it | may become |", "|---|---|---|"]
    for state, following in NEXT.items():
        held = "yes" if state in WITH_WORKER else ""
        becomes = ", ".join(f"`{one}`" for one in sorted(following))
        lines.append(f"| `{state}` | {held} | {becomes} |")
    unused = ", ".join(f"`{state}`" for state in JobState if state in UNUSED)
    lines += ["", f"PanDA's own: {unused}.", OF_ATTEMPTS, *_attempts()]
    lines += [OF_ITEMS, *_items()]
    return "\n".join(lines) + "\n"


def _attempts() -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {FIRST_OF_ATTEMPT}"]
    for change, step in ATTEMPT_TABLE.items():
        lines += [
            f"    {state} --> {step.to}: {change}" for state in AttemptState if state in step.start
        ]
    going_on = {state for step in ATTEMPT_TABLE.values() for state in step.start}
    lines += [f"    {state} --> [*]" for state in AttemptState if state not in going_on]
    lines += ["```", "", "| change | from | to | when |", "|---|---|---|---|"]
    for change, step in ATTEMPT_TABLE.items():
        states = ", ".join(f"`{state}`" for state in AttemptState if state in step.start)
        lines.append(f"| {change} | {states} | `{step.to}` | {step.when} |")
    return lines


def _items() -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {ItemState.WAITING}"]
    for change, step in ITEM_TABLE.items():
        lines += [
            f"    {state} --> {step.to}: {change}" for state in ItemState if state in step.start
        ]
    lines += ["```", "", "| change | from | to | when |", "|---|---|---|---|"]
    for change, step in ITEM_TABLE.items():
        states = ", ".join(f"`{state}`" for state in ItemState if state in step.start)
        lines.append(f"| {change} | {states} | `{step.to}` | {step.when} |")
    return lines


if __name__ == "__main__":
    sys.stdout.write(page())
