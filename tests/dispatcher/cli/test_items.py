"""Payloads of a job from the command line; and that no kill of the dispatcher loses or doubles
one."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections import Counter

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client, Refused
from ailurus.wire.credentials import fixed_token
from dispatcher.cli.exits import DATA, CommandError
from dispatcher.cli.payloads import PayloadLists
from tests.dispatcher.cli.conftest import ids

ROOM = Room(cores=1000, memory_mb=10**6, disk_mb=10**6)
JOB = "name: many\ncommand: ./simulate\nqueue: items\n"


def worker_of(server, queue: str = "items") -> Client:
    pilot = server.client.as_holder(fixed_token(server.token("pilot", "ailurus.pilot")))
    ask = m.Register(instance=secrets.token_hex(8), queue=queue, total=ROOM)
    token = pilot.call("register", ask, answer=m.Registered).token
    return pilot.as_holder(fixed_token(token))


def acquired(worker: Client) -> m.Assignment:
    ask = m.Acquire(request_id=secrets.token_hex(8), room=ROOM, items=True, wait_s=5)
    (job,) = worker.call("acquire", ask, answer=m.Acquired, wait_s=5).jobs
    return job


def exchange(worker: Client, job: m.Assignment, count: int, *ended: m.ItemEnd) -> m.ItemsAnswer:
    ask = m.ItemsRequest(
        request_id=secrets.token_hex(8),
        job_id=job.job_id,
        attempt_nr=job.attempt_nr,
        count=count,
        ended=ended,
    )
    return worker.call("exchange_items", ask, answer=m.ItemsAnswer)


def end(item: m.ItemLease, outcome: ItemOutcome = ItemOutcome.FINISHED, **facts) -> m.ItemEnd:
    return m.ItemEnd(index=item.index, attempt=item.attempt, outcome=outcome, **facts)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("payloads:\n  - {arguments: [1, a b]}\n  - {arguments: [2]}\n", [("1", "a b"), ("2",)]),
        ("payloads: {arguments: [--seed, '{s}'], sweep: {s: {from: 1, to: 2}}}\n",
         [("--seed", "1"), ("--seed", "2")]),
        ("payloads: lines.jsonl\n", [("x",), ("7",)]),
    ],
)  # fmt: skip
def test_payloads_are_a_list_a_sweep_or_a_file_of_json_lines(
    run, jobfile, server, tmp_path, text, arguments
):
    lines = '{"arguments": ["x"], "memory": "1GiB"}\n\n{"arguments": [7]}\n'
    (tmp_path / "lines.jsonl").write_text(lines)
    (job,) = ids(run("submit", jobfile(JOB + text)))
    found = [server.client.item(int(job), nr).spec.arguments for nr in range(2)]
    assert found == arguments
    ids(run("cancel", job))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("payloads: []\n", "jobs[0].payloads: no payloads (give at least one)"),
        ("command: echo {n}\npayloads: {sweep: {n: [1, 2]}}\n",
         "jobs[0].command: {n} is not filled in here"),
        ("payloads: none.jsonl\n", "jobs[0].payloads: there is no file"),
        ("payloads: [{container: a}]\n",
         "jobs[0].payloads[0].container: no field of a payload (say it of the job"),
        ("payloads: [{argumets: [a]}]\n",
         "jobs[0].payloads[0].argumets: no such field (did you mean `arguments`?)"),
        ("command: a\ngoal: 95%\n", "jobs[0].goal: goal is of payloads, and job 'many' has none"),
        ("command: a\nitem_attempts: 2\n", "jobs[0].item_attempts: item_attempts is of payloads"),
        ("launcher: mpi\npayloads: [a]\n", "jobs[0].launcher: payloads are started by themselves"),
    ],
)  # fmt: skip
def test_what_payloads_cannot_be_is_told_with_its_field(run, jobfile, text, said):
    ran = run("submit", "--dry-run", jobfile("name: many\n" + text))
    assert ran.code == DATA
    assert said in ran.err


def test_the_number_of_a_payload_stands_for_item_in_names_of_its_files(
    run, jobfile, server, tmp_path
):
    (tmp_path / "lines.jsonl").write_text(
        '\n{"outputs": ["a_{item}"]}\n\n{"outputs": ["b_{item}"]}\n'
    )
    swept = "payloads: {outputs: [{name: 'h_{item}_{s}.root'}], sweep: {s: [7, 8]}}\n"
    for text, names in (
        (swept, ["h_0_7.root", "h_1_8.root"]),
        ("payloads: lines.jsonl\n", ["a_0", "b_1"]),
    ):
        (job,) = ids(run("submit", jobfile(JOB + text)))
        specs = [server.client.item(int(job), nr).spec for nr in range(2)]
        assert [spec.outputs[0].name for spec in specs] == names
        ids(run("cancel", job))


def test_an_empty_output_of_a_payload_has_its_reason(run, jobfile, server):
    (job,) = ids(run("submit", jobfile(JOB + "payloads: [{arguments: [1]}, {arguments: [2]}]\n")))
    ran = run("logs", f"{job}.1")
    assert (ran.code, ran.out) == (0, "")
    assert f"payload {job}.1 has written nothing yet: no pilot has its job" in ran.err
    worker = worker_of(server)
    first = exchange(worker, one := acquired(worker), 1).items[0]
    exchange(worker, one, 0, end(first, stderr_tail="bad"))
    assert "wrote nothing to stdout; try --stream stderr" in run("logs", f"{job}.0").err
    ids(run("cancel", job))


def test_a_job_that_has_no_command_of_its_own_shows_none(run, jobfile):
    (job,) = ids(run("submit", jobfile("name: many\npayloads: [a]\n")))
    assert "command" not in run("show", job).out
    ids(run("cancel", job))


def test_a_wrong_line_of_a_file_is_named(run, jobfile, tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"arguments": ["x"]}\n{"argumets": ["y"]}\n')
    ran = run("submit", jobfile(JOB + "payloads: lines.jsonl\n"))
    assert ran.code == DATA
    assert "lines.jsonl:2: argumets: no such field" in ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"command": "\\ud800"}\n', "is no character"),
        (b'{"command": "a"}' + b" " * 2_000_000 + b'{"command": "b"}\n', "a line of more than"),
        (b"[" * 100_000, "lines.jsonl:1: not a line of JSON"),
    ],
    ids=["surrogate", "long", "deep"],
)
def test_a_line_that_nobody_writes_by_hand_is_refused(run, jobfile, tmp_path, text, said):
    (tmp_path / "lines.jsonl").write_bytes(text)
    ran = run("submit", "--dry-run", jobfile(JOB + "payloads: lines.jsonl\n"))
    assert ran.code == DATA
    assert said in ran.err


def test_payloads_come_from_a_file_that_can_be_read_twice(run, jobfile, tmp_path):
    os.mkfifo(tmp_path / "lines.jsonl")
    ran = run("submit", "--dry-run", jobfile(JOB + "payloads: lines.jsonl\n"))
    assert ran.code == DATA
    assert "not a regular file" in ran.err


def test_no_job_gets_other_payloads_than_its_file_had_when_it_was_checked(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"command": "a"}\n{"command": "b"}\n')
    lists = PayloadLists()
    lists.reader(str(tmp_path))("lines.jsonl", "payloads")
    file.write_text('{"command": "a"}\n{"command": "c"}\n')
    ((_, items),) = lists
    assert next(items).command == "a"
    with pytest.raises(CommandError, match="changed while it was read"):
        next(items)


def test_show_logs_and_why_reach_every_payload(run, jobfile, server):
    (job,) = ids(run("submit", jobfile(JOB + "payloads: [{name: a}, {name: b}, {name: c}]\n")))
    worker = worker_of(server)
    one = acquired(worker)
    got = exchange(worker, one, 2).items
    failed = end(got[1], ItemOutcome.FAILED, exit_code=3, stderr_tail="no such file\n")
    exchange(worker, one, 0, end(got[0]), failed)
    assert "3, 1 waiting, 1 finished, 1 failed" in run("show", job).out
    listed = run("show", job, "--items", "failed").out
    assert "b\tfailed" in listed
    assert "a\tfinished" not in listed
    assert "no such file" in run("show", f"{job}.1").out
    assert run("logs", f"{job}.1", "--stream", "stderr").out == "no such file\n"
    assert "which was its last" in run("why", f"{job}.1").out
    assert "it waits for a free slot" in run("why", f"{job}.2").out
    rows = [json.loads(line) for line in run("show", job, "--items", "--json").out.splitlines()]
    assert [row["state"] for row in rows] == ["finished", "failed", "waiting"]


@pytest.mark.slow
def test_no_kill_of_the_dispatcher_loses_or_doubles_an_item(serve):
    """It is killed in the middle of the upload, and again while items run."""
    server = serve()
    count, kills = 60_000, threading.Event()
    specs = [ItemSpec(arguments=(str(nr),)) for nr in range(count)]

    def kill(times: int, pause_s: float) -> None:
        for _ in range(times):
            if kills.wait(pause_s):
                return
            server.kill()
            server.start()

    def beside(times: int, pause_s: float) -> threading.Thread:
        thread = threading.Thread(target=kill, args=(times, pause_s))
        thread.start()
        return thread

    client = server.client
    thread = beside(3, 0.15)
    payloads = client.upload("all", specs)
    again = client.upload("all", specs)
    thread.join()
    assert payloads == again
    assert payloads.count == count
    spec = JobSpec(name="j", command="true", queue="items", payloads=payloads)
    (job_id,) = client.submit([spec]).job_ids
    page = client.items(job_id, ItemsQuery(after=count - 3))
    assert [item.index for item in page.items] == [count - 2, count - 1]
    worker = worker_of(server)
    one = acquired(worker)
    told: Counter[int] = Counter()
    ended: list[m.ItemEnd] = []
    thread = beside(3, 0.3)
    begun = time.monotonic()
    while time.monotonic() < begun + 120:
        answer = exchange(worker, one, 1000, *ended)
        told.update(item.index for item in ended)
        ended = [end(item) for item in answer.items]
        if answer.settled:
            break
    kills.set()
    thread.join()
    assert told == dict.fromkeys(range(count), 1)
    counts = client.show(job_id).items
    assert (counts.finished, counts.failed, counts.waiting) == (count, 0, 0)


@pytest.mark.parametrize("at", [1e300, -1e18])
def test_no_pilot_tells_a_time_that_show_cannot_write(run, jobfile, server, at):
    (job,) = ids(run("submit", jobfile(JOB + "payloads: [{name: a}]\n")))
    worker = worker_of(server)
    acquire = acquired(worker)
    (item,) = exchange(worker, acquire, 1).items
    begun = m.ItemBegun(index=item.index, attempt=item.attempt, at=at)
    ask = m.ItemsRequest(request_id="r", job_id=int(job), attempt_nr=1, begun=(begun,))
    with pytest.raises(Refused, match="begun"):
        worker.call("exchange_items", ask, answer=m.ItemsAnswer)
    assert run("show", job, "--items").code == 0
    ids(run("cancel", job))
