"""Draws `docs/states.md` from the state table: `python docs/draw_states.py > docs/states.md`."""

from __future__ import annotations

import sys

from ailurus.protocol.states import FIRST, NEXT, TABLE, UNUSED, WITH_WORKER, JobState

HEAD = """# The life of a job

Drawn from the table in `ailurus/protocol/states.py` by `docs/draw_states.py`; a test compares them.
A job is in one of PanDA's states. Those that nothing leads to are PanDA's own, and no job here is ever in
them. Every state from `pending` to `holding` can also become `cancelled` or `failed`: these arrows are left
out of the picture.
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
    return "\n".join(lines) + f"\n\nPanDA's own: {unused}.\n"


if __name__ == "__main__":
    sys.stdout.write(page())
