"""Jobs that carry items, by a real pilot at a real dispatcher."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.states import JobState
from tests.pilot.helpers import Field

BOXES = {"bare": {"default": "bare", "bare": True}, "bubblewrap": {"default": "bubblewrap"}}
boxes = pytest.mark.parametrize("box", BOXES)


def carrying(field: Field, items: list[ItemSpec], **fields: Any) -> int:
    payloads = field.dispatcher.client.upload(uuid.uuid4().hex, items)
    return field.submit(payloads=payloads, **fields)


def rows(field: Field, job_id: int) -> list[m.ItemRow]:
    return list(field.dispatcher.client.items(job_id, ItemsQuery(limit=1000)).items)


@boxes
def test_each_item_has_its_own_end_and_output(field: Field, box: str) -> None:
    field.write_site(container=BOXES[box])
    job_id = carrying(
        field,
        [
            ItemSpec(arguments=("a b", "*")),
            ItemSpec(command="echo bad >&2; exit 3"),
            ItemSpec(command="/bin/true"),
            ItemSpec(command="/nowhere/at/all"),
            ItemSpec(environment={"WHO": "me"}, command='echo "$WHO $AILURUS_ITEM"'),
        ],
        command="printf '%s\\n'",
        cores=2,
        goal="3",
        item_attempts=1,
    )
    field.pilot()
    found = field.dispatcher.final(job_id)
    assert found.row.state is JobState.FINISHED, found
    assert [row.state for row in rows(field, job_id)] == [
        "finished", "failed", "finished", "failed", "finished",
    ]  # fmt: skip
    one, two, _, four, five = [field.dispatcher.client.item(job_id, n) for n in range(5)]
    assert one.stdout_tail == "a b\n*\n"
    assert (two.row.exit_code, two.stderr_tail) == (3, "bad\n")
    assert "No such file" in four.row.diagnosis
    assert five.stdout_tail == "me 4\n"
    assert "a b\n*\n" in field.dispatcher.log(job_id)
