"""What people did to a job: who, when, what, and in which action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ailurus.output import Output, clock
from ailurus.protocol.errors import AilurusError

if TYPE_CHECKING:
    from ailurus.protocol.messages import Event
    from ailurus.wire.client import Client

EVENTS = 1000
"""Read of one job."""


def show(client: Client, job_id: int, out: Output) -> None:
    """The table, if somebody did something."""
    from ailurus.protocol.api import EventsQuery
    from ailurus.protocol.messages import Events

    try:
        ask = EventsQuery(job_id=job_id, limit=EVENTS)
        answer = client.call("events", ask, answer=Events)
    except AilurusError:
        # All the rest of the job has been shown.
        return
    if rows := list(acts(answer.events)):
        out.line()
        out.table(["when", "who", "did", "action"], rows)


def acts(events: tuple[Event, ...]) -> Iterator[tuple[str, str, str, object]]:
    """When, by whom, what, and the number of the action; of a cancellation in an action one row."""
    handled = {event.at for event in events if event.kind == "handled"}
    for event in events:
        data = event.data
        if not (by := data.get("by")):
            continue
        if event.kind == "handled":
            told = {"priority": f"priority {data.get('new')}", "move": f"move to {data.get('new')}"}
            did = told.get(str(data["verb"]), str(data["verb"]))
        elif event.kind == "retried":
            did = f"retry as {data['new']}"
        elif event.kind == "retry":
            did = f"made it, a retry of {data['of']}"
        elif event.kind == "state" and event.at not in handled:
            did = "cancel"
        else:
            continue
        yield clock(event.at), str(by), did, data.get("action", "")
