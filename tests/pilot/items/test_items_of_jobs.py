"""Jobs that carry items, by a real pilot at a real dispatcher."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import ItemsQuery, LogQuery
from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.states import JobState
from tests.pilot.helpers import Field, SlowStore, processes_with
from tests.rig.waiting import until

BOXES = {"bare": {"default": "bare", "bare": True}, "bubblewrap": {"default": "bubblewrap"}}
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts")
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


@boxes
def test_items_end_with_their_time_with_their_job_and_with_what_they_started(
    field: Field, box: str
) -> None:
    field.write_site(container=BOXES[box])
    # Jobs of tests that run at the same time have the same numbers.
    left, stays = ({"WHOSE": uuid.uuid4().hex} for _ in range(2))
    job_id = carrying(
        field,
        [
            ItemSpec(command="setsid sleep 600 & exit 0", environment=left),
            ItemSpec(command="sleep 600", walltime_s=1),
            ItemSpec(command="sleep 600", environment=stays),
        ],
        cores=3,
        item_attempts=1,
    )
    field.pilot()
    client = field.dispatcher.client
    until(lambda: client.item(job_id, 1).row.state == "failed", 20)
    assert client.item(job_id, 1).row.code == Code.WALLTIME
    assert client.item(job_id, 0).row.state == "finished"
    assert not processes_with(left["WHOSE"])
    assert processes_with(stays["WHOSE"])
    client.cancel([job_id])
    until(lambda: not processes_with(stays["WHOSE"]), 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a pilot of another user")
@pytest.mark.parametrize("user", [0, 65534])
def test_p2_an_item_has_no_capability_and_its_job_shares_no_namespace(
    open_field: Field, user: int
) -> None:
    python = Path(sys.executable).resolve()
    if user and not all(one.stat().st_mode & 0o001 for one in python.parents):
        pytest.skip(f"{python} is in a directory that another user may not enter")
    field = open_field
    token = field.directory / "pilot.token"
    token.write_text(field.dispatcher.pilot_token.read_text())
    for path in (token, field.storage):
        os.chown(path, user, user)
    field.write_site(container=BOXES["bubblewrap"])
    shown = (
        "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; readlink /proc/self/ns/*; id -u"
    )
    job_id = carrying(field, [ItemSpec(command=shown)], cores=1)
    field.pilot(user=user or None, environment={"AILURUS_TOKEN_FILE": str(token)})
    assert field.dispatcher.final(job_id).row.state is JobState.FINISHED
    *lines, uid = field.dispatcher.client.item(job_id, 0).stdout_tail.splitlines()
    told = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert (told.pop("NoNewPrivs"), told.pop("Seccomp")) == ("1", "2")
    assert set(told.values()) == {"0" * 16}
    ours = {os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}  # noqa: PTH115 - text
    assert not ours & set(lines)
    assert uid == str(user)


@boxes
def test_an_item_above_its_own_memory_ends_alone_and_is_tried_as_its_rule_says(
    field: Field, box: str
) -> None:
    field.write_site(container=BOXES[box])
    eats = "python3 -c 'import time; x = b\"x\" * (150 << 20); time.sleep({})'"
    job_id = carrying(
        field,
        [
            ItemSpec(command=f"({eats.format(600)}); exit 7", memory_mb=60),
            ItemSpec(command=eats.format(2), memory_mb=400),
            ItemSpec(command=eats.format(2)),
        ],
        cores=3,
        memory_mb=900,
        goal="2",
        item_attempts=2,
    )
    field.pilot()
    found = field.dispatcher.final(job_id)
    assert found.row.state is JobState.FINISHED, found
    first, *others = rows(field, job_id)
    assert (first.state, first.attempt, first.code) == ("failed", 2, Code.OVER_MEMORY)
    assert "MB of memory, it asked for 60 MB" in first.diagnosis
    assert [(row.state, row.attempt) for row in others] == [("finished", 1)] * 2


def test_what_items_leave_is_taken_with_their_job_and_known_as_theirs(field: Field) -> None:
    field.write_site(container=BOXES["bubblewrap"])
    leaves = OutputFile(name="own_1.txt"), OutputFile(name="parts_1/*.dat")
    job_id = carrying(
        field,
        [
            ItemSpec(command="echo all >all.txt"),
            ItemSpec(
                command="echo one >own_1.txt; mkdir parts_1; echo a >parts_1/a.dat",
                outputs=(*leaves, OutputFile(name="none", optional=True)),
            ),
            ItemSpec(command="true", outputs=(OutputFile(name="none_2"),)),
            ItemSpec(command="exit 3; echo >own_3", outputs=(OutputFile(name="own_3"),)),
            ItemSpec(command="ln -s /etc/passwd own_4", outputs=(OutputFile(name="own_4"),)),
            ItemSpec(
                command="until test -e own_1.txt; do sleep 0.05; done; sleep 1",
                outputs=(OutputFile(name="own_*.txt"),),
            ),
        ],
        cores=4,
        goal="2",
        item_attempts=1,
        outputs=(OutputFile(name="*.txt"),),
    )
    field.pilot()
    found = field.dispatcher.final(job_id)
    assert found.row.state is JobState.FINISHED, found
    assert [(file.name, file.item) for file in found.files] == [
        ("all.txt", None), ("own_1.txt", 1), ("parts_1/a.dat", 1),
    ]  # fmt: skip
    client = field.dispatcher.client
    (own, part) = client.item(job_id, 1).files
    assert Path(own.url.removeprefix("file://")).read_text("utf-8") == "one\n"
    assert Path(part.url.removeprefix("file://")).read_text("utf-8") == "a\n"
    codes = [row.code for row in rows(field, job_id)]
    assert codes == [
        0, 0, Code.MISSING_OUTPUT, Code.PAYLOAD_FAILED, Code.OUTPUT_UNSAFE, Code.PAYLOAD_FAILED,
    ]  # fmt: skip
    assert "payload 1 has left 'own_1.txt' as well" in client.item(job_id, 5).row.diagnosis


def test_inputs_of_an_item_are_there_when_it_begins_and_go_with_it(field: Field) -> None:
    field.write_site(container=BOXES["bubblewrap"])
    files = {name: field.storage / name for name in ("all", "one", "two")}
    for name, path in files.items():
        path.write_text(f"{name}\n", "utf-8")

    def named(*names: str) -> tuple[InputFile, ...]:
        return tuple(InputFile(name=f"in/{name}", url=f"file://{files[name]}") for name in names)

    gone = InputFile(name="in/gone", url=f"file://{field.storage}/gone")
    outside = InputFile(name="in/outside", url="file:///etc/passwd")
    job_id = carrying(
        field,
        [
            ItemSpec(inputs=named("all", "one"), arguments=("in/one",)),
            ItemSpec(inputs=named("all", "two"), arguments=("in/two",)),
            ItemSpec(inputs=(gone,)),
            ItemSpec(inputs=(outside,)),
            ItemSpec(command="until test -z `ls in`; do sleep 0.1; done; echo empty"),
        ],
        # By their names: what the other one names goes meanwhile.
        command="cat in/all",
        cores=3,
        goal="3",
        item_attempts=1,
    )
    field.pilot()
    found = field.dispatcher.final(job_id)
    assert found.row.state is JobState.FINISHED, found
    items = [field.dispatcher.client.item(job_id, nr) for nr in range(5)]
    assert [row.state for row in rows(field, job_id)] == [
        "finished", "finished", "failed", "failed", "finished",
    ]  # fmt: skip
    assert {"all", "one"} <= set(items[0].stdout_tail.split())
    assert {"all", "two"} <= set(items[1].stdout_tail.split())
    assert (items[2].row.code, items[3].row.code) == (
        Code.NO_SUCH_FILE, Code.STORAGE_FORBIDDEN,
    )  # fmt: skip
    assert items[4].stdout_tail == "empty\n"


def test_a_job_does_not_wait_for_an_input_that_nobody_needs_any_more(field: Field) -> None:
    store = SlowStore()
    storage = {"roots": [str(field.storage)], "http_allow": [store.url]}
    field.write_site(container=BOXES["bubblewrap"], storage=storage)
    try:
        slow = InputFile(name="slow", url=f"{store.url}/slow")
        gone = InputFile(name="gone", url=f"file://{field.storage}/gone")
        job_id = carrying(field, [ItemSpec(inputs=(slow, gone))], command="true", item_attempts=1)
        field.pilot()
        found = field.dispatcher.final(job_id)
        assert not store.patient.is_set()
        assert store.asked.is_set()
    finally:
        store.close()
    (row,) = rows(field, job_id)
    assert (found.row.state, row.code) == (JobState.FAILED, Code.NO_SUCH_FILE)
    assert found.attempts[0].timing["run"] < 10


@pytest.mark.slow
def test_each_item_finishes_once_though_the_pilot_is_killed(field: Field) -> None:
    field.write_site(container=BOXES["bubblewrap"])
    count = 2000
    items = [ItemSpec(command="/bin/sleep 0.001") for _ in range(count)]
    job_id = carrying(field, items, cores=4, max_attempts=3)
    client = field.dispatcher.client
    pilot = field.pilot()
    until(lambda: (client.show(job_id).items or m.ItemCounts(total=0)).finished > count // 10, 60)
    pilot.process.kill()
    field.pilot()
    found = field.dispatcher.final(job_id, 60)
    assert found.row.state is JobState.FINISHED, found
    assert found.items is not None
    assert (found.items.finished, found.items.total) == (count, count)
    # The second pilot told what the first had finished and not told.
    again = sum(row.attempt > 1 for row in rows(field, job_id))
    assert again < count * 9 // 10


@boxes
@pytest.mark.parametrize("thing", ["mkfifo", "mkdir", "ln -s /dev/null"])
def test_what_an_item_puts_in_place_of_outputs_harms_no_other(
    field: Field, box: str, thing: str
) -> None:
    """A FIFO there once held up the guardian, and a directory ended the job."""
    field.write_site(container=BOXES[box])
    places = "$PWD/../.item-* /tmp/.item-*"
    swap = f"for file in {places}; do rm -f $file && {thing} $file; done; exit 0"
    job_id = carrying(
        field, [ItemSpec(command=swap), *[ItemSpec(command="echo hello")] * 3], item_attempts=1
    )
    field.pilot()
    found = field.dispatcher.final(job_id)
    assert found.row.state is JobState.FINISHED, found
    assert "hello" in field.dispatcher.log(job_id)


def test_what_cannot_be_an_output_costs_its_own_item_and_no_other(field: Field) -> None:
    """All were lost at the end of the job by one that was larger than the site takes."""
    field.write_site(container=BOXES["bubblewrap"])
    makes = ("ln -s /etc/passwd o", "mkfifo o", "mkdir o", "truncate -s 1T o", "echo good > o")
    items = [
        ItemSpec(command=f"{make}{nr}", outputs=(OutputFile(name=f"o{nr}"),))
        for nr, make in enumerate(makes)
    ]
    job_id = carrying(field, items, cores=1, item_attempts=1, goal="1", disk_mb=50)
    field.pilot()
    found = field.dispatcher.final(job_id)
    assert found.row.state is JobState.FINISHED, found
    assert [(file.name, file.item) for file in found.files] == [("o4", 4)]
    codes = {row.index: row.code for row in rows(field, job_id) if row.code}
    assert codes == {**dict.fromkeys(range(3), Code.OUTPUT_UNSAFE), 3: Code.OUTPUT_TOO_LARGE}


def test_an_item_that_kills_their_box_fails_no_other(field: Field) -> None:
    field.write_site(container=BOXES["bubblewrap"])
    job_id = carrying(
        field,
        [ItemSpec(command="case $AILURUS_ATTEMPT in *.0.1) sleep 0.3; kill -9 -1; esac")]
        + [ItemSpec(command="sleep 0.5")] * 10,
        cores=4,
        item_attempts=1,
        max_attempts=3,
    )
    field.pilot()
    found = field.dispatcher.final(job_id)
    assert found.row.state is JobState.FINISHED, found
    assert {row.state for row in rows(field, job_id)} == {"finished"}
    assert "has ended" in found.attempts[0].diagnosis


def test_the_output_of_an_item_is_followed_while_it_runs(field: Field) -> None:
    field.write_site(container=BOXES["bare"])
    go = field.directory / "go"
    say = f"echo first; until test -e {go}; do sleep 0.05; done; echo last"
    job_id = carrying(field, [ItemSpec(command=say)], cores=1)
    client = field.dispatcher.client
    field.pilot()
    until(lambda: client.item(job_id, 0).row.state == "running", 20)
    chunk = client.log(job_id, LogQuery(item=0, wait_s=20))
    assert (chunk.text, chunk.final) == ("first\n", False)
    go.touch()
    text = chunk.text
    while not chunk.final:
        chunk = client.log(job_id, LogQuery(item=0, offset=chunk.end, wait_s=20))
        text += chunk.text
    assert text == "first\nlast\n"
