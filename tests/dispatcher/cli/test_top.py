"""`dispatcher top`: a real dispatcher, a terminal of Textual's own."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from textual.widgets import DataTable, Input, Static

from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import JobRow
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client, WireError
from ailurus.wire.credentials import fixed_token
from dispatcher.cli.screen import Top, cells
from tests.rig.dispatcher import Dispatcher


@pytest.fixture
def client(server: Dispatcher) -> Client:
    return Client(server.url, fixed_token(server.token_file.read_text().strip()))


def text_of(top: Top, where: str) -> str:
    return str(top.query_one(where, Static).content)


async def until(found: Callable[[], object]) -> None:
    for _ in range(400):
        if found():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(found)


def rows(top: Top) -> list[list[str]]:
    table = top.query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(nr)] for nr in range(table.row_count)]


async def test_it_shows_jobs_tells_why_and_cancels_after_a_yes(client: Client) -> None:
    ours = client.submit([JobSpec(name="shown", command="true", queue="top-1")] * 2).job_ids
    top = Top(client, "queue:top-1", every_s=0.1)
    async with top.run_test(size=(120, 30)) as hands:
        await until(lambda: len(rows(top)) == 2)
        assert rows(top)[0][:3] == [str(ours[1]), "shown", "activated"]
        assert "activated" in text_of(top, "#summary")
        await hands.press("j", "w")
        await until(lambda: f"job {ours[0]}: " in text_of(top, "#told"))
        assert "No pilot serves" in text_of(top, "#told")
        await hands.press("l")
        await until(lambda: "nothing was written so far" in text_of(top, "#told"))
        await hands.press("c", "escape", "y")
        await hands.press("c")
        assert text_of(top, "#told") == f"cancel job {ours[0]}? y: yes, escape: no"
        assert client.show(ours[0]).row.state is JobState.ACTIVATED
        await hands.press("y")
        await until(lambda: rows(top)[1][2] == "cancelled")
        assert rows(top)[0][2] == "activated"


def test_what_others_wrote_is_neither_markup_nor_steers_the_terminal() -> None:
    row = JobRow(
        job_id=1,
        name="n",
        queue="q",
        user="u",
        state=JobState.FAILED,
        attempt_nr=1,
        priority=0,
        created=0.0,
        changed=0.0,
        diagnosis="[red]no\x1b[2J",
    )
    (*_, told) = cells(row, 0.0)
    assert (told.plain, told.spans) == ("[red]no\\x1b[2J", [])


async def test_a_query_is_typed_and_a_wrong_one_is_told(client: Client) -> None:
    client.submit([JobSpec(name="one", command="true", queue="top-2")])
    client.submit([JobSpec(name="two", command="true", queue="top-3")])
    top = Top(client, "queue:top-2", every_s=0.1)
    async with top.run_test(size=(120, 30)) as hands:
        await until(lambda: [row[1] for row in rows(top)] == ["one"])
        await hands.press("slash")
        top.query_one(Input).value = "queue:top-3"
        await hands.press("enter")
        await until(lambda: [row[1] for row in rows(top)] == ["two"])
        await hands.press("slash")
        top.query_one(Input).value = "queue:("
        await hands.press("enter")
        await until(lambda: text_of(top, "#summary").startswith("! "))
        assert [row[1] for row in rows(top)] == ["two"]


async def test_who_does_not_answer_is_told_and_the_last_rows_stay(client: Client) -> None:
    client.submit([JobSpec(name="stays", command="true", queue="top-4")])
    top = Top(client, "queue:top-4", every_s=0.1)
    async with top.run_test(size=(120, 30)):
        await until(lambda: rows(top))

        def gone(*_: object) -> object:
            raise WireError("no answer", remedy="start it")

        client.overview = gone  # type: ignore[method-assign]
        await until(lambda: text_of(top, "#summary") == "! no answer (start it)")
        assert [row[1] for row in rows(top)] == ["stays"]


def test_without_a_terminal_it_names_what_prints(run) -> None:
    done = run("top")
    assert done.code == 64
    assert "dispatcher status" in done.err


def test_in_a_terminal_it_begins_and_leaves_by_q(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    argv = [f"{Path(sys.executable).parent}/dispatcher", "top", "--every", "1s"]
    environment = environment | {"TERM": "xterm-256color"}
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as top:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # the terminal is closed
            while data := os.read(ours, 65536):
                seen += data
                if b"cores in use" in seen:
                    os.write(ours, b"q")
        assert top.wait(20) == 0
    os.close(ours)
    assert b"cores in use" in seen
