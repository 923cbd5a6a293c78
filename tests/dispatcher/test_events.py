"""Events as rows and as users see them: dispatchers of other versions read both."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher import events
from dispatcher.events import Entry, Event, StateChanged, Submitted, Unknown, WorkerChanged
from dispatcher.store.writer import event_row, read_event

SUBMITTED = Submitted(queue="q", shape_id=1, state=JobState.ACTIVATED, jobs=2, first=5, last=6)
LEASED = StateChanged(
    state=JobState.SENT, old=JobState.ACTIVATED, queue="q", shape_id=1, attempt_nr=1, user=""
)
ENDED = WorkerChanged(phase=Phase.ENDED, ending=Ending.LOST, site="s", queue="", host="")
ROWS = [
    (SUBMITTED, "submitted", '{"queue":"q","shape_id":1,"state":"activated","jobs":2,"first":5,"last":6}'),
    (LEASED, "state", '{"state":"sent","old":"activated","queue":"q","shape_id":1,"attempt_nr":1,"user":""}'),
    (ENDED, "worker", '{"phase":"ended","ending":"lost","site":"s","queue":"","host":""}'),
    (events.ChildrenDue(), "unfolding", "{}"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "kind", "data"), ROWS)
def test_an_event_is_a_row_and_is_read_back_from_it_and_from_what_users_see(
    event: Event, kind: str, data: str
) -> None:
    entry = Entry(seq=3, at=2.0, job_id=5, event=event)
    row = event_row(entry, 3)
    assert (row["kind"], row["data"]) == (kind, data)
    assert read_event(tuple(row.values())) == entry
    shown = m.Event(seq=3, at=2.0, kind=kind, job_id=5, data=msgspec.json.decode(data))
    assert events.of_users(shown) == entry


@pytest.mark.parametrize(
    ("kind", "data"), [("teleported", "{}"), ("state", '{"state":"nowhere"}'), ("edge", "{}")]
)
def test_what_only_another_version_can_read_is_passed_over(kind: str, data: str) -> None:
    assert read_event((3, 2.0, kind, 5, None, data)).event == Unknown()
    shown = m.Event(seq=3, at=2.0, kind=kind, job_id=5, data=msgspec.json.decode(data))
    assert events.of_users(shown) == Entry(seq=3, at=2.0, job_id=5, event=Unknown())


def test_a_lease_of_a_version_before_names_no_owner() -> None:
    row = (3, 2.0, "state", 5, 7, '{"state":"sent","old":"activated","queue":"q","shape_id":1}')
    read = read_event(row).event
    assert isinstance(read, StateChanged)
    assert (read.user, read.attempt_nr, read.alone) == (None, None, False)


def test_every_kind_is_in_the_table() -> None:
    text = Path(events.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'^    kind = "(\w+)"', text, re.MULTILINE)) == set(events.KINDS)
