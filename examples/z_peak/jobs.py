"""The demo's jobs: their submission, their progress and what they found."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table
from services import SCRIPTS, dispatcher
from setting import Setting
from workflow import workflow

from ailurus import Client
from ailurus.protocol.api import JobsQuery, LogQuery
from ailurus.protocol.messages import JobRow
from ailurus.protocol.states import FINAL, JobState
from ailurus.wire.client import WireError

LIVE = (JobState.SENT, JobState.STARTING, JobState.RUNNING, JobState.HOLDING)
terminal = Console()
if not terminal.is_terminal:
    # A log has no width: what is to be copied from it stays in one piece.
    terminal.width = 160


def submit(place: Path, url: str, options: argparse.Namespace, setting: Setting) -> list[int]:
    """Write the job file and submit it as a user would."""
    tree = workflow(
        jobs=options.jobs,
        events=options.events,
        python=setting.python,
        scripts=SCRIPTS,
        files=setting.files,
        common=setting.common,
    )
    path = place / "workflow.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    ids: list[int] = json.loads(dispatcher(place, url, "submit", "--json", path))["job_ids"]
    terminal.print(f"submitted {len(ids)} jobs from {path}", highlight=False, soft_wrap=True)
    return ids


def watch(client: Client, ids: list[int], options: argparse.Namespace) -> None:
    """A live view until all jobs are final."""
    began = time.monotonic()
    with Live(console=terminal, refresh_per_second=4, transient=not terminal.is_terminal) as live:
        while True:
            rows = jobs_since(client, ids[0])
            if terminal.is_terminal:
                live.update(view(client, rows, options, time.monotonic() - began))
            if all(row.state in FINAL for row in rows) and len(rows) == len(ids):
                return
            time.sleep(0.25)


def jobs_since(client: Client, first: int) -> list[JobRow]:
    rows: list[JobRow] = []
    before = None
    while True:
        page = client.jobs(JobsQuery(limit=1000, before=before))
        rows += [row for row in page.jobs if row.job_id >= first]
        if page.next is None or page.next <= first:
            return rows
        before = page.next


def view(client: Client, rows: list[JobRow], options: argparse.Namespace, seconds: float) -> Table:
    overview = client.overview()
    states = {state: sum(row.state is state for row in rows) for state in JobState}
    simulated = [row for row in rows if row.name.startswith("simulate-")]
    events = sum(events_of(client, row, options.events) for row in simulated)
    total = options.events * options.jobs
    rate = events / seconds if seconds else 0.0
    left = (total - events) / rate if rate else 0.0
    table = Table(
        title="Z → μμ at 13.6 TeV, over recorded data", title_justify="left", show_header=False
    )
    table.add_row("jobs", "  ".join(f"{state} {n}" for state, n in states.items() if n))
    table.add_row(
        "pilots", "  ".join(f"{phase} {n}" for phase, n in overview.workers.items()) or "none yet"
    )
    table.add_row("events", f"{events:,} of {total:,}   {rate:,.0f}/s")
    table.add_row(
        "time", f"{seconds:.0f} s" + (f", about {left:.0f} s of simulation left" if left else "")
    )
    return table


def events_of(client: Client, row: JobRow, all_of_it: int) -> int:
    """Events that a simulation has made, from the last line of its live log."""
    if row.state is JobState.FINISHED:
        return all_of_it
    if row.state not in LIVE:
        return 0
    try:
        tail = client.log(row.job_id, LogQuery(offset=-200)).text.split()
    except WireError:
        # It may have ended meanwhile; the next look tells.
        return 0
    counts = [word for word in tail if "/" in word]
    done = counts[-1].split("/")[0] if counts else ""
    return int(done) if done.isdigit() else 0


def show_result(client: Client, plot: int, place: Path, setting: Setting) -> int:
    """Copy picture and numbers beside the workflow and say what they are."""
    detail = client.show(plot)
    if detail.row.state is not JobState.FINISHED:
        failed = client.jobs(JobsQuery(state="failed", limit=1000)).jobs
        cause = min(failed, key=lambda row: row.job_id, default=detail.row)
        terminal.print(
            f"job {cause.job_id} ({cause.name}) {cause.state}: {cause.diagnosis}",
            style="red",
            markup=False,
        )
        tail = client.show(cause.job_id).attempts
        if tail:
            terminal.print(tail[-1].stderr_tail, markup=False, highlight=False)
        return 1
    setting.fetch(client, plot)
    results = json.loads((place / "z_peak.json").read_text())
    mass, uncertainty = results["mass_gev"], results["mass_uncertainty_gev"]
    terminal.print(f"picture: [b]{place / 'z_peak.png'}[/b]", highlight=False, soft_wrap=True)
    terminal.print(
        f"fitted mass of the Z: [b]{mass:.2f} ± {uncertainty:.2f} GeV[/b]", highlight=False
    )
    return 0
