"""Draws `docs/states.md` from the state table: `python docs/draw_states.py > docs/states.md`."""

from __future__ import annotations

import sys

from ailurus.protocol.states import FINAL, NEXT, WITH_WORKER, JobState

HEAD = """# The life of a job

Drawn from the table in `ailurus/protocol/states.py` by `docs/draw_states.py`; a test compares them.
A job is in one of PanDA's states. Boxes with a round edge are final. Every state that is not final can
also become `cancelled` (by its owner), or `failed`; these arrows are left out of the picture but where
they are the only ones.
"""


def page() -> str:
    """The page as text."""
    lines = [HEAD, "```mermaid", "stateDiagram-v2", "    [*] --> pending", "    [*] --> activated"]
    for state in JobState:
        ahead = sorted(
            NEXT[state] - {JobState.CANCELLED, JobState.FAILED, JobState.CLOSED}
        ) or sorted(NEXT[state])
        lines += [f"    {state} --> {after}" for after in ahead]
    lines += [f"    {state} --> [*]" for state in sorted(FINAL)]
    lines += ["```", "", "| state | a worker holds it | may become |", "|---|---|---|"]
    for state in JobState:
        held = "yes" if state in WITH_WORKER else ""
        lines.append(
            f"| `{state}` | {held} | {', '.join(f'`{after}`' for after in sorted(NEXT[state]))} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
