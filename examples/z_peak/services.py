"""The directory of the demo and the programs that run in it: dispatcher, edge, batch system.

Each ends with its block. What a kept demo leaves running is ended by the process ids in its files.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from options import BATCH

from ailurus import Client
from ailurus.protocol.errors import AilurusError
from ailurus.wire.credentials import TokenFile

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PHYSICS = ROOT / ".venv-physics"
SCRIPTS = Path(__file__).resolve().parent
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
            # Ctrl-C is ours to hand on, in order.
            start_new_session=True,
        )
    (place / f"{name}.pid").write_text(str(process.pid))
    try:
        yield process
    finally:
        undisturbed()
        if (place / f"{name}.pid").exists():
            end(process)
            (place / f"{name}.pid").unlink()


def undisturbed() -> None:
    """Let nobody interrupt the end of what was started."""
    for number in INTERRUPTIONS:
        signal.signal(number, signal.SIG_IGN)


def end(process: subprocess.Popen[bytes], patience_s: float = 20.0) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def programs(place: Path, port: int, more: Sequence[object]) -> Iterator[tuple[Client, str]]:
    """A dispatcher that answers, and a client of it. `more`: options of `dispatcher serve`."""
    store = f"sqlite:///{place}/queue.db"
    dispatcher(place, "", "init", "--store", store)
    command = [BIN / "dispatcher", "serve", "--store", store, "--heartbeat", "2s", *more]
    with program(place, "dispatcher", [*command, "--listen", f"127.0.0.1:{port}"]) as process:
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
    command = ["token", "--subject", "edge-demo", "--scope", "ailurus.edge:demo"]
    dispatcher(place, url, *command, "--lifetime", "7d", "--out", place / "edge.token")


def dispatcher(place: Path, url: str, *words: object) -> str:
    """What a command of the dispatcher prints for its administrator. Raises AilurusError."""
    done = subprocess.run(
        [BIN / "dispatcher", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "AILURUS_URL": url,
            "AILURUS_TOKEN_FILE": str(token_file(place)),
            # Not in the user's home, which may not be there.
            "XDG_STATE_HOME": str(place / "state"),
        },
    )
    if done.returncode:
        raise AilurusError(done.stderr.strip() or f"dispatcher {words[0]}: {done.returncode}")
    return done.stdout


def site_file(place: Path, url: str, kind: str, parts: Mapping[str, Any]) -> Path:
    """A site: this machine, in pilots of half its cores, and `parts` of the file as they are."""
    cores = len(os.sched_getaffinity(0))
    pilots = 2 if cores > 1 else 1
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2 * 8 // 10
    if kind != "local":
        # What the machines of the fixtures say they have.
        memory_mb = min(memory_mb, 64_000)
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
        **parts,
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


def stop_kept(place: Path) -> int:
    """End the programs of a demo that was kept: only those whose start we wrote down ourselves."""
    for name in ("edge", "dispatcher"):
        note = place / f"{name}.kept"
        if not note.exists():
            continue
        pid = int(note.read_text())
        # Else the number is another process's by now.
        if str(place).encode() in command_line(pid):
            os.kill(pid, signal.SIGTERM)
            while command_line(pid):
                time.sleep(0.05)
        note.unlink()
    end_fixtures(place)
    return 0


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# --- services of scripts/fixtures -----------------------------------------------------------------


@contextmanager
def batch_system(place: Path, kind: str) -> Iterator[dict[str, str]]:
    """A real one on loopback, if asked for; the environment of who speaks to it."""
    if kind == "local":
        yield {}
        return
    if os.getuid() == 0:
        if kind == "htcondor":
            raise AilurusError(
                "HTCondor takes no jobs from root", remedy="run the demo as an ordinary user"
            )
        bring(f"--{kind}")
    nodes = ["2", str(len(os.sched_getaffinity(0)))] if kind == "slurm" else []
    with fixture(place, kind, *nodes, remedy=f"as root: scripts/setup --{kind}") as said:
        words = said.removeprefix("export ").split()
        yield {
            name: os.path.expandvars(value)
            for name, _, value in (one.partition("=") for one in words)
        }


def bring(*options: str) -> None:
    """Have `scripts/setup` bring what is missing. Raises AilurusError; what it lacks it says
    itself."""
    setup = ["scripts/setup", *options]
    with subprocess.Popen(setup, cwd=ROOT) as process:
        try:
            failed = process.wait()
        except BaseException:
            process.terminate()
            raise
    if failed:
        raise AilurusError("not all of it is here", remedy=f"as root: {' '.join(setup)}")


@contextmanager
def fixture(place: Path, name: str, *options: str, remedy: str = "") -> Iterator[str]:
    """A service in a directory of its name, and what its start printed. Raises AilurusError if it
    does not start."""
    try:
        yield ask_fixture(place, name, "start", *options, remedy=remedy)
    finally:
        undisturbed()
        if not (place / "edge.kept").exists():
            end_fixture(place, name)


def ask_fixture(place: Path, name: str, verb: str, *options: object, remedy: str = "") -> str:
    """What a verb of a fixture prints. Raises AilurusError.

    It ends by itself even when the demo is interrupted: only then all that it began is written
    down, and can be ended.
    """
    said, log = place / f"log/{name}.out", place / f"log/{name}.log"
    command = [ROOT / "scripts/fixtures" / name, verb, place / name, *options]
    with (
        said.open("wb") as out,
        log.open("wb") as errors,
        subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        process.wait()
    if process.returncode:
        reason = log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
        raise AilurusError(reason or f"{name}: {verb} failed", remedy=remedy)
    return said.read_text(encoding="utf-8").strip()


def end_fixture(place: Path, name: str) -> None:
    subprocess.run([ROOT / "scripts/fixtures" / name, "stop", place / name], check=True)


def end_fixtures(place: Path) -> None:
    """End services that a demo was told to keep, or left when it was killed."""
    for name in (*BATCH, "rucio"):
        if (place / name).exists():
            end_fixture(place, name)
