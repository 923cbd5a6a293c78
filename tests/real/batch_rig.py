"""A dispatcher and an edge on a real batch system, all of it loopback; and a liar between the two.

`Rig.programs` run as `system.user` (HTCondor takes nothing from root). The liar stands before every batch
command (`backend.options.prefix`): it counts them, and at its next submission does what a test has told it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from ailurus.wire.client import Client, TokenFile

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
QUEUE = "real"
SITE = "real"
SUBMITS = ("sbatch", "condor_submit", "qsub")

LIAR = """#!/bin/sh
here={here}
echo "$@" >> $here/calls
mode=
for word in "$@"; do
    case $word in sbatch|condor_submit|qsub) mode=$(cat $here/mode 2>/dev/null) ;; esac
done
rm -f $here/mode.used
[ -z "$mode" ] || mv $here/mode $here/mode.used
case $mode in
    accept-and-hang) "$@" > /dev/null; exec sleep 1000 ;;
    accept-and-fail) "$@" > /dev/null; exit 1 ;;
    banner) echo "Welcome to the cluster"; exec "$@" ;;
    two-ids) "$@"; echo 99999 ;;
    half-a-line) "$@" | tr -d '\\n' ;;
    kill-before) kill -9 $PPID; exit 1 ;;
    kill-during) "$@" > /dev/null & kill -9 $PPID; wait ;;
    kill-after) "$@"; kill -9 $PPID ;;
    *) exec "$@" ;;
esac
"""


@dataclass
class System:
    """A batch system that runs: what a site file says of it, and how a test looks behind it."""

    kind: str
    environment: dict[str, str]
    live: Callable[[], list[str]]
    """Names of workers that it has, waiting or running: one "TAG.INDEX" for each, twice if twice."""
    prefix: tuple[str, ...] = ()
    """What stands before each of its commands."""
    user: str = field(default_factory=lambda: pwd.getpwuid(os.getuid()).pw_name)

    def run(self, *argv: object, seconds: float = 60, check: bool = True) -> str:
        """One of its commands, as the user."""
        words = [*as_user(self.user), *self.prefix, *map(str, argv)]
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, timeout=seconds,
            env={**clean(), **self.environment},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


def clean() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}


def as_user(user: str) -> list[str]:
    """What stands before a command that is to run as that user. It may go into this tree even where
    the tree lies below a private directory."""
    entry = pwd.getpwnam(user)
    if entry.pw_uid == os.getuid():
        return []
    who = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    rights = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return ["setpriv", *who, "--securebits=+no_setuid_fixup", *rights]


def free_port() -> int:
    """A port of loopback, below those that the kernel gives to whoever asks for any."""
    while True:
        port = random.randrange(12000, 20000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def until(what: Callable[[], object], seconds: float, why: str) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {why}"
        time.sleep(0.1)


class Rig:
    """Everything of a test lies in one directory; what was started ends with it."""

    def __init__(self, system: System, **site: Any) -> None:
        self.system = system
        self.directory = Path(tempfile.mkdtemp(prefix="ailurus-real-"))
        self.directory.chmod(0o755)
        self._give(self.directory)
        for name in ("work", "state", "out", "home"):
            self._give(self.directory / name)
        self.started: list[subprocess.Popen[bytes]] = []
        self._begin_dispatcher()
        self.client = Client(self.url, TokenFile(self.directory / "queue.admin-token"))
        ask = m.NewToken(subject="edge", scopes=(f"ailurus.edge:{SITE}",))
        token = self.directory / "edge.token"
        token.touch(0o600)
        token.write_text(self.client.call("token", ask, answer=m.Token).token)
        self._own(token)
        liar = self.directory / "liar"
        liar.write_text(LIAR.format(here=self.directory))
        liar.chmod(0o755)
        idle = self.directory / "idle"
        idle.write_text("#!/bin/sh\nexec sleep 1000\n")
        idle.chmod(0o755)
        self.configure(**site)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.started):
            self.kill(process, signal.SIGKILL)
        self.cancel_all()
        if error[0] is None:
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            print(f"kept for a look: {self.directory}")

    def cancel_all(self) -> None:
        """Leave the batch system empty for the next test."""

    def _give(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self._own(path)

    def _own(self, path: Path) -> None:
        if os.getuid() == 0:
            shutil.chown(path, self.system.user)

    def start(self, name: str, *argv: object, **environment: str) -> subprocess.Popen[bytes]:
        log = self.directory / f"{name}.log"
        env = {**clean(), **self.system.environment, "HOME": str(self.directory / "home")}
        with log.open("ab") as out:
            words = [*as_user(self.system.user), *map(str, argv)]
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**env, **environment}, cwd="/", start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    @staticmethod
    def kill(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(30)

    # the programs ---------------------------------------------------------------------------------

    def _begin_dispatcher(self) -> None:
        store = f"sqlite:///{self.directory / 'queue'}"
        self.kill_after(self.start("init", BIN / "dispatcher", "init", "--store", store))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.start("dispatcher", BIN / "dispatcher", "serve", "--store", store, "--listen",
                   f"127.0.0.1:{port}", "--heartbeat", "2s")  # fmt: skip
        until(lambda: _answers(port), 20, "the dispatcher answers")

    @staticmethod
    def kill_after(process: subprocess.Popen[bytes]) -> None:
        assert process.wait(30) == 0

    def configure(self, **site: Any) -> None:
        """Write the site file; the values of a test replace the usual ones, key by key."""
        usual: dict[str, Any] = {
            "schema": 1,
            "site": SITE,
            "backend": {
                "kind": self.system.kind,
                "limits": {"poll": "1s", "settle": "3s", "grace": "4s", "command_timeout": "3s"},
                "options": {"prefix": [str(self.directory / "liar"), *self.system.prefix]},
            },
            "dispatcher": {"url": self.url, "token_file": str(self.directory / "edge.token")},
            "paths": {"work": f"{self.directory}/work", "state": f"{self.directory}/state"},
            "slots": {
                "std": {
                    "queue": QUEUE,
                    "cores": 1,
                    "memory": "500M",
                    "disk": "1G",
                    "walltime": "1h",
                }
            },
            "scaling": {"max_total": 4, "max_queued": 50, "per_cycle": 50, "idle_exit": "3s"},
            "policy": {"start_grace": "10m"},
            "storage": {
                "roots": [f"{self.directory}/out"],
                "default_output": f"file://{self.directory}/out",
            },
            "container": {"default": "bare", "bare": True},
        }
        self.site_file = self.directory / "site.yaml"
        self.site_file.write_text(yaml.safe_dump(_over(usual, site)))

    def edge(self, **environment: str) -> subprocess.Popen[bytes]:
        argv = (BIN / "harvester-edge", "run", "--config", self.site_file)
        return self.start("edge", *argv, **environment)

    def lie(self, mode: str) -> None:
        """What the liar does at the next submission."""
        (self.directory / "mode").write_text(mode)
        self._own(self.directory / "mode")

    # what a test asks -----------------------------------------------------------------------------

    @property
    def submissions(self) -> int:
        calls = self.directory / "calls"
        return sum(one in SUBMITS for one in calls.read_text().split()) if calls.exists() else 0

    def workers(self, where: str = "1") -> list[dict[str, Any]]:
        """Rows of the edge's book."""
        book = self.directory / "state" / "book.sqlite"
        if not book.exists():
            return []
        db = sqlite3.connect(f"{book.as_uri()}?mode=ro", uri=True)
        db.row_factory = sqlite3.Row
        with contextlib.closing(db), contextlib.suppress(sqlite3.OperationalError):
            return [dict(row) for row in db.execute(f"select * from worker where {where}")]  # noqa: S608
        return []

    def forget(self) -> None:
        """Lose all that the edge has written down, but not who it is: the site is its own."""
        with (
            contextlib.closing(sqlite3.connect(self.directory / "state" / "book.sqlite")) as db,
            db,
        ):
            for table in ("worker", "decision", "health"):
                db.execute(f"delete from {table}")  # noqa: S608

    def known(self) -> list[str]:
        """Names of the workers that the edge knows to live in the batch system."""
        rows = self.workers("phase != 'ended' and batch_id != ''")
        return sorted(f"{row['intent']}.{row['index']}" for row in rows)

    def agrees(self, count: int) -> bool:
        """Whether the batch system has so many workers, and the edge knows each of them once."""
        live = sorted(self.system.live())
        return len(live) == count and live == self.known()

    def submit(self, count: int, command: str = "true", **fields: Any) -> list[int]:
        """Jobs for the queue; their ids."""
        jobs = [
            JobSpec(name=f"j{n}", command=command, queue=QUEUE, memory_mb=10, disk_mb=10, **fields)
            for n in range(count)
        ]
        return list(self.client.submit(jobs).job_ids)

    def finished(self, ids: list[int], seconds: float = 90) -> bool:
        states = self.client.wait(ids, seconds).states
        return set(states.values()) == {"finished"}

    def log(self) -> str:
        return (self.directory / "edge.log").read_text()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _over(usual: Mapping[str, Any], wish: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**usual, **wish}
    for key in usual.keys() & wish.keys():
        if isinstance(usual[key], dict) and isinstance(wish[key], dict):
            merged[key] = _over(usual[key], wish[key])
    return merged
