"""What `dispatcher top` shows. Keys are those of the console's pages.

Whatever users wrote is shown as plain text: never as markup, without what steers a terminal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static

from ailurus.output import ago, clean
from ailurus.protocol import messages as m
from ailurus.protocol.api import JobsQuery, LogQuery
from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Client

ROWS = 200
TAIL = 16 * 1024
"""Bytes of a log that are shown."""
TROUBLES = 3
COLUMNS = ("job", "name", "state", "queue", "user", "attempt", "changed", "diagnosis")


def summary(seen: m.Overview) -> str:
    """The system in a few lines, what is wrong first."""
    states = " · ".join(f"{n:,} {state}" for state, n in seen.states.items() if n) or "no jobs"
    pilots = seen.pilots
    lines = [f"! {one.sentence} → {one.remedy}" for one in seen.troubles[:TROUBLES]]
    if (more := len(seen.troubles) - TROUBLES) > 0:
        lines.append(f"! and {more} more: `dispatcher status`")
    lines.append(states)
    lines.append(
        f"{pilots.alive:,} pilots, {pilots.used:,} of {pilots.cores:,} cores in use · "
        f"{seen.finished_per_min:.1f} finished and {seen.failed_per_min:.1f} failed a minute"
    )
    return "\n".join(lines)


def cells(row: m.JobRow, now: float) -> tuple[Text, ...]:
    """A job under COLUMNS."""
    shown = (row.job_id, row.name, row.state, row.queue, row.user, row.attempt_nr)
    return tuple(plain(str(one)) for one in (*shown, ago(row.changed, now), row.diagnosis))


def plain(text: str) -> Text:
    return Text(clean(text), no_wrap=True)


class Top(App[None]):
    """Numbers above, jobs below, and what was asked of one of them at the bottom."""

    CSS = """
    #summary { height: auto; padding: 0 1; background: $panel; }
    #query, #below { display: none; }
    #below { height: 40%; border-top: solid $primary; padding: 0 1; }
    .shown { display: block !important; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "search"),
        Binding("j", "move(1)", "down", show=False),
        Binding("k", "move(-1)", "up", show=False),
        Binding("w", "why", "why"),
        Binding("l", "log", "log"),
        Binding("c", "act('cancel')", "cancel"),
        Binding("r", "act('retry')", "retry"),
        Binding("y", "confirm", "yes", show=False),
        Binding("escape", "leave", "back"),
        Binding("q", "quit", "quit"),
    ]
    ENABLE_COMMAND_PALETTE = False
    TITLE = "Ailurus"

    def __init__(self, client: Client, query: str = "", every_s: float = 2.0) -> None:
        super().__init__()
        self._client, self._text, self._every_s = client, query, every_s
        self._jobs: tuple[int, ...] = ()
        self._act: tuple[str, int] | None = None
        """What waits for a yes."""
        self._asked = asyncio.Event()
        """Somebody wants to see it now."""

    def compose(self) -> ComposeResult:
        yield Static("…", id="summary", markup=False)
        yield Input(self._text, placeholder="state:failed age<2h", id="query")
        yield DataTable[Text](cursor_type="row", zebra_stripes=True)
        with VerticalScroll(id="below"):
            yield Static("", id="told", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(DataTable).add_columns(*COLUMNS)
        self.query_one(DataTable).focus()
        self._watch()

    @work
    async def _watch(self) -> None:
        """Look again and again; what is on the screen stays where nobody answers."""
        while True:
            self._asked.clear()
            try:
                seen = await asyncio.to_thread(self._client.overview)
                query = JobsQuery(query=self._text, limit=ROWS)
                page = await asyncio.to_thread(self._client.jobs, query)
            except (AilurusError, OSError) as error:
                self._say("#summary", f"! {error}")
            else:
                self._show(seen, page)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._every_s)

    def _show(self, seen: m.Overview, page: m.JobPage) -> None:
        self._say("#summary", summary(seen))
        table: DataTable[Text] = self.query_one(DataTable)
        at = self._chosen()
        row, scroll = table.cursor_row, table.scroll_y
        table.clear()
        now = time.time()
        for job in page.jobs:
            table.add_row(*cells(job, now))
        self._jobs = tuple(job.job_id for job in page.jobs)
        # The cursor stays with its job, wherever that is now.
        table.move_cursor(row=self._jobs.index(at) if at in self._jobs else row)
        table.scroll_to(y=scroll, animate=False)

    def _say(self, where: str, text: str) -> None:
        self.query_one(where, Static).update(Text(clean(text)))

    def _tell(self, text: str) -> None:
        self.query_one("#below").add_class("shown")
        self._say("#told", text)

    def _chosen(self) -> int | None:
        row = self.query_one(DataTable).cursor_row
        return self._jobs[row] if 0 <= row < len(self._jobs) else None

    def action_move(self, by: int) -> None:
        table = self.query_one(DataTable)
        table.move_cursor(row=table.cursor_row + by)

    def action_search(self) -> None:
        box = self.query_one(Input)
        box.add_class("shown")
        box.focus()

    def on_input_submitted(self, typed: Input.Submitted) -> None:
        self._text = typed.value
        self.query_one(DataTable).focus()
        self._asked.set()

    def action_leave(self) -> None:
        self._act = None
        self.query_one("#below").remove_class("shown")
        if not self._text:
            self.query_one(Input).remove_class("shown")
        self.query_one(DataTable).focus()

    def action_why(self) -> None:
        self.ask(_why)

    def action_log(self) -> None:
        self.ask(_log)

    def on_data_table_row_selected(self) -> None:
        self.ask(_why)

    def action_act(self, verb: str) -> None:
        if (job := self._chosen()) is not None:
            self._act = verb, job
            self._tell(f"{verb} job {job}? y: yes, escape: no")

    def action_confirm(self) -> None:
        if self._act is not None:
            (verb, job), self._act = self._act, None
            self.ask(_ACTS[verb], job)

    @work(exclusive=True, group="ask")
    async def ask(self, question: Callable[[Client, int], str], job: int | None = None) -> None:
        """Show the answer about a job: the one under the cursor, if it is not named."""
        if job is None and (job := self._chosen()) is None:
            return
        try:
            told = await asyncio.to_thread(question, self._client, job)
        except (AilurusError, OSError) as error:
            told = str(error)
        self._tell(f"job {job}: {told}")
        self._asked.set()


def _why(client: Client, job: int) -> str:
    why = client.why(job)
    lines = [why.sentence, *(f"  - {blocker}" for blocker in why.blockers)]
    return "\n".join([*lines, f"  → {why.remedy}"] if why.remedy else lines)


def _log(client: Client, job: int) -> str:
    ends = {
        stream: client.log(job, LogQuery(stream=stream, offset=-TAIL)).text
        for stream in ("stdout", "stderr")
    }
    told = [f"the end of {stream}\n{text}" for stream, text in ends.items() if text]
    return "\n".join(told) or "nothing was written so far"


def _cancel(client: Client, job: int) -> str:
    done = client.cancel([job])
    return "is cancelled" if done.cancelled else "has ended already"


def _retry(client: Client, job: int) -> str:
    return f"runs again as job {', '.join(map(str, client.retry([job]).job_ids))}"


_ACTS: dict[str, Callable[[Client, int], str]] = {"cancel": _cancel, "retry": _retry}
