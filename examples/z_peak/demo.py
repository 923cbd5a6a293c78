"""The demo: real programs on this machine, from the submission of jobs to a picture.

Called by `scripts/demo`. Everything it makes lies in one directory, `demo-run` beside the scripts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ailurus import Client
from ailurus.protocol.api import JobsQuery, LogQuery
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.messages import JobRow
from ailurus.protocol.states import FINAL, JobState
from ailurus.wire.client import WireError
from ailurus.wire.credentials import TokenFile

sys.path.insert(0, str(Path(__file__).parent))
from workflow import workflow

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PHYSICS = ROOT / ".venv-physics"
SCRIPTS = Path(__file__).resolve().parent
FIXTURES = ("slurm", "htcondor")
EVENTS = 10_000  # of one simulation: two to three seconds
LIVE = (JobState.SENT, JobState.STARTING, JobState.RUNNING, JobState.HOLDING)
terminal = Console()


class Stopped(Exception):
    """Ctrl-C, or a request to end."""


def stop(*_: object) -> None:
    raise Stopped


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    if options.stop:
        return stop_kept(options.dir)
    signal.signal(signal.SIGTERM, stop)
    try:
        return run(options)
    except (KeyboardInterrupt, Stopped):
        terminal.print("stopped; nothing is left running", style="yellow")
        return 130
    except AilurusError as error:
        terminal.print(f"demo: {error}", style="red", markup=False)
        return 1


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--jobs", type=int, default=8, metavar="N", help="simulation jobs (default 8)"
    )
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help="events of each")
    parser.add_argument("--keep", action="store_true", help="leave it running at the end")
    parser.add_argument("--stop", action="store_true", help="end one that was left running")
    parser.add_argument(
        "--port", type=int, default=0, help="of the dispatcher (default: a free one)"
    )
    parser.add_argument(
        "--batch", choices=["local", *FIXTURES], default="local",
        help="where pilots run: processes of this machine, or a real batch system started for it",
    )  # fmt: skip
    parser.add_argument("--dir", type=Path, default=ROOT / "demo-run", help="where all of it lies")
    options = parser.parse_args(arguments)
    if not 1 <= options.jobs <= 5000:
        parser.error("--jobs: between 1 and 5000")
    options.dir = options.dir.resolve()
    return options


def run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    stop_kept(options.dir)
    place = prepare(options.dir)
    with batch_system(place, options) as found, programs(place, options) as (client, url):
        edge_token(place, url)
        edge = [BIN / "harvester-edge", "run", "--drain-at-exit", "--config"]
        edge.append(site_file(place, url, options.batch))
        with program(place, "edge", edge, **found):
            ids = submit(place, url, options)
            terminal.print(f"while it runs, its console: [b]{url}/console/[/b]")
            terminal.print(
                f"its sign-in asks for a token: the one in {token_file(place)}",
                highlight=False,
                soft_wrap=True,
            )
            try:
                watch(client, ids, options)
            except (KeyboardInterrupt, Stopped):
                client.cancel(ids)  # so that the pilots have nothing left to finish
                raise
            failed = show_result(client, ids[-1], place)
            terminal.print(ended(time.monotonic() - began, url if options.keep else None))
            if options.keep:
                keep(place)
            return failed


def ended(seconds: float, kept: str | None) -> str:
    """The last line: where the console is, if the dispatcher at that address is `kept`."""
    if kept is None:
        return f"all in {seconds:.0f} s, its console included; --keep leaves that running"
    return f"all in {seconds:.0f} s; console: [b]{kept}/console/[/b]"


# --- the batch system -----------------------------------------------------------------------------


@contextmanager
def batch_system(place: Path, options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """A real one on loopback, if asked for; the environment of who speaks to it."""
    if options.batch == "local":
        yield {}
        return
    setup = [ROOT / "scripts" / "setup", f"--{options.batch}"]
    if os.getuid() == 0:
        if options.batch == "htcondor":
            raise AilurusError(
                "HTCondor takes no jobs from root", remedy="run the demo as an ordinary user"
            )
        subprocess.run(setup, check=True)
    command = [ROOT / "scripts" / "fixtures" / options.batch, "start", place / options.batch]
    nodes = ["2", str(len(os.sched_getaffinity(0)))] if options.batch == "slurm" else []
    started = subprocess.run([*command, *nodes], check=False, capture_output=True, text=True)
    if started.returncode:
        raise AilurusError(started.stderr.strip(), remedy=f"as root: {' '.join(map(str, setup))}")
    try:
        words = started.stdout.removeprefix("export ").split()
        yield {
            name: os.path.expandvars(value)
            for name, _, value in (one.partition("=") for one in words)
        }
    finally:
        if not (place / "edge.kept").exists():
            end_batch_systems(place)


def end_batch_systems(place: Path) -> None:
    for name in FIXTURES:
        if (place / name).exists():
            subprocess.run([ROOT / "scripts" / "fixtures" / name, "stop", place / name], check=True)


# --- the place and the programs in it -------------------------------------------------------------


def prepare(place: Path) -> Path:
    """An empty directory with the recorded data in its storage."""
    if place.exists() and not (place / ".demo").exists() and any(place.iterdir()):
        raise AilurusError(
            f"{place} is not a former demo's", field="--dir", remedy="name an empty one"
        )
    shutil.rmtree(place, ignore_errors=True)
    for folder in ("storage/data", "storage/out", "work", "edge", "log"):
        (place / folder).mkdir(parents=True)
    (place / ".demo").touch()
    copy = [PHYSICS / "bin/python", SCRIPTS / "dataset.py", "--copy-to", place / "storage/data"]
    subprocess.run([str(word) for word in copy], check=True, stdout=subprocess.DEVNULL)
    return place


@contextmanager
def program(
    place: Path, name: str, command: Sequence[object], **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of ours with its log in a file; asked to end when the block does."""
    with (place / "log" / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is ours to hand on, in order
        )
    (place / f"{name}.pid").write_text(str(process.pid))
    try:
        yield process
    finally:
        if (place / f"{name}.pid").exists():
            end(process)
            (place / f"{name}.pid").unlink()


def end(process: subprocess.Popen[bytes], patience_s: float = 20.0) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def programs(place: Path, options: argparse.Namespace) -> Iterator[tuple[Client, str]]:
    """A dispatcher that answers, and a client of it."""
    store = f"sqlite:///{place}/queue.db"
    subprocess.run(
        [BIN / "dispatcher", "init", "--store", store], check=True, stdout=subprocess.DEVNULL
    )
    command = [BIN / "dispatcher", "serve", "--store", store, "--heartbeat", "2s"]
    with program(
        place, "dispatcher", [*command, "--listen", f"127.0.0.1:{options.port}"]
    ) as process:
        url = address(place / "log/dispatcher.log", process)
        yield Client(url, TokenFile(token_file(place))), url


def address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the dispatcher listens, as it says itself."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("listening on "):
                return line.removeprefix("listening on ").strip()
        time.sleep(0.02)
    raise AilurusError(f"the dispatcher did not start: {log.read_text(encoding='utf-8')[-2000:]}")


def token_file(place: Path) -> Path:
    return place / "queue.admin-token"


def edge_token(place: Path, url: str) -> None:
    command = [
        "token",
        "--subject",
        "edge-demo",
        "--scope",
        "ailurus.edge:demo",
        "--lifetime",
        "7d",
    ]
    subprocess.run(
        [BIN / "dispatcher", *command, "--out", place / "edge.token"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=client_environment(place, url),
    )


def client_environment(place: Path, url: str) -> dict[str, str]:
    return {**os.environ, "AILURUS_URL": url, "AILURUS_TOKEN_FILE": str(token_file(place))}


def site_file(place: Path, url: str, kind: str = "local") -> Path:
    """A site: this machine, in pilots of half its cores."""
    cores = len(os.sched_getaffinity(0))
    pilots = 2 if cores > 1 else 1
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2 * 8 // 10
    if kind != "local":
        memory_mb = min(memory_mb, 64_000)  # what the machines of the fixtures say they have
    slot = {
        "queue": "demo",
        "cores": cores // pilots,
        "memory": f"{memory_mb // pilots}M",
        "disk": "20GiB",
        "walltime": "4h",
    }
    site = {
        "schema": 1,
        "site": "demo",
        "backend": {"kind": kind, "limits": {"poll": "1s"}},
        "dispatcher": {"url": url, "token_file": str(place / "edge.token")},
        "paths": {"work": str(place / "work"), "state": str(place / "edge")},
        "slots": {"half": slot},
        "scaling": {
            "max_total": pilots,
            "max_queued": pilots,
            "per_cycle": pilots,
            "idle_exit": "20s",
        },
        "storage": {
            "roots": [str(place / "storage")],
            "default_output": f"file://{place}/storage/out",
        },
        "software": [str(PHYSICS), *interpreter(PHYSICS / "bin/python"), str(SCRIPTS)],
        "container": {"default": "bubblewrap"},
    }
    path = place / "site.yaml"
    path.write_text(yaml.safe_dump(site, sort_keys=False))
    return path


def interpreter(python: Path) -> list[str]:
    """Where the interpreter of an environment lies, if payloads are not shown that anyway: below a
    home, for example. Raises AilurusError if it does not run at all."""
    ask = "import os, sys; print(sys.base_prefix, os.path.realpath(sys.executable), sep='\\n')"
    try:
        said = subprocess.run(
            [python, "-c", ask], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        remedy = f"rm -r {python.parents[1]}, then scripts/setup --physics"
        raise AilurusError(f"{python} does not run: {error}", remedy=remedy) from None
    prefix, program = map(Path, said.splitlines())
    homes = {prefix, program.parents[1]}
    return sorted(str(home) for home in homes if not home.is_relative_to("/usr"))


def keep(place: Path) -> None:
    """Leave the programs to themselves: without its pid file nobody ends them at the end of a
    block."""
    for name in ("edge", "dispatcher"):
        (place / f"{name}.pid").rename(place / f"{name}.kept")
    terminal.print("left running; end it with [b]scripts/demo --stop[/b]")


def stop_kept(place: Path) -> int:
    """End the programs of a demo that was kept: only those whose start we wrote down ourselves."""
    for name in ("edge", "dispatcher"):
        note = place / f"{name}.kept"
        if not note.exists():
            continue
        pid = int(note.read_text())
        if str(place).encode() in command_line(pid):  # else the number is somebody else's by now
            os.kill(pid, signal.SIGTERM)
            while command_line(pid):
                time.sleep(0.05)
        note.unlink()
    end_batch_systems(place)
    return 0


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# --- the jobs -------------------------------------------------------------------------------------


def submit(place: Path, url: str, options: argparse.Namespace) -> list[int]:
    """Write the job file and submit it as a user would."""
    tree = workflow(
        jobs=options.jobs,
        events=options.events,
        python=PHYSICS / "bin/python",
        scripts=SCRIPTS,
        storage=place / "storage",
    )
    path = place / "workflow.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    answer = subprocess.run(
        [BIN / "dispatcher", "submit", "--json", path],
        check=True,
        capture_output=True,
        env=client_environment(place, url),
    )
    ids: list[int] = json.loads(answer.stdout)["job_ids"]
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
        return 0  # it may have ended meanwhile; the next look tells
    counts = [word for word in tail if "/" in word]
    done = counts[-1].split("/")[0] if counts else ""
    return int(done) if done.isdigit() else 0


def show_result(client: Client, plot: int, place: Path) -> int:
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
    results: dict[str, Any] = {}
    for file in detail.files:
        if file.name in ("z_peak.png", "z_peak.json"):
            shutil.copy(file.url.removeprefix("file://"), place / file.name)
    results = json.loads((place / "z_peak.json").read_text())
    mass, uncertainty = results["mass_gev"], results["mass_uncertainty_gev"]
    terminal.print(f"picture: [b]{place / 'z_peak.png'}[/b]", highlight=False, soft_wrap=True)
    terminal.print(
        f"fitted mass of the Z: [b]{mass:.2f} ± {uncertainty:.2f} GeV[/b]", highlight=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
