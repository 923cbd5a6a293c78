"""A dispatcher and an edge on a real batch system, all of it loopback; and a liar between the two.

`Rig.programs` run as `system.user` (HTCondor takes nothing from root). The liar stands before every
batch command (`backend.options.prefix`): it counts them, and at its next submission does what a
test has told it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ailurus.protocol import messages as m
from ailurus.protocol.api import WorkerRows, WorkersQuery
from ailurus.protocol.job import JobSpec
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile, Trust
from tests.rig.ports import free_port
from tests.rig.programs import certificate
from tests.rig.waiting import until

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
QUEUE = "real"
LEASE_S = 6
SUBMITS = ("sbatch", "condor_submit", "qsub")
LISTS = re.compile(r"(?:^|\s)(?:squeue (?!.*--name)|condor_q .*substr|qstat (?!.* \d)).*")

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
    stop-before) kill -STOP $PPID; while [ ! -e $here/go ]; do sleep 0.1; done; exec "$@" ;;
    stop-after) "$@"; kill -STOP $PPID ;;
    twice) "$@" > /dev/null; exec "$@" ;;
    *) exec "$@" ;;
esac
"""


@dataclass
class System:
    """A batch system that runs: what a site file says of it, and how a test looks behind it."""

    kind: str
    environment: dict[str, str]
    live: Callable[[], list[str]]
    """Names of workers that it has, waiting or running: one "TAG.INDEX" for each, twice if
    twice."""
    empty: Callable[[], None]
    """Ends all of them."""
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
        if check and done.returncode:
            raise RuntimeError(f"{words}: {done.stderr}")
        return done.stdout


BATCH = (b"SLURM_JOB_ID=", b"PBS_JOBID=", b"_CONDOR_")  # in the environment of what they start


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


class Rig:
    """Everything of a test lies in one directory; what was started ends with it."""

    def __init__(self, system: System, host: str = "127.0.0.1", **site: Any) -> None:
        """`host`: where nodes reach the dispatcher; with TLS, unless it is loopback."""
        self.system, self._host = system, host
        self._trust = Trust()
        self.directory = Path(tempfile.mkdtemp(prefix="ailurus-real-"))
        self.directory.chmod(0o755)
        self._give(self.directory)
        for name in ("work", "state", "out", "home"):
            self._give(self.directory / name)
        self.started: list[subprocess.Popen[bytes]] = []
        self.site: dict[str, Any] = {}
        self._begin_dispatcher()
        admin = TokenFile(self.directory / "queue.admin-token")
        self.client = Client(self.url, admin, trust=self._trust)
        liar = self.directory / "liar"
        liar.write_text(LIAR.format(here=self.directory))
        liar.chmod(0o755)
        self.program("idle", '[ "$1" != --version ] || exit 0\nexec sleep 1000')
        self.configure(**site)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.started):
            self.kill(process, signal.SIGKILL)
        for worker in self._left():  # of a local site: nobody else ends them
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        if error[0] is None:
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            print(f"kept for a look: {self.directory}")
            for log in self.directory.glob("*.log"):
                print(f"{log.name}: {log.read_text(errors='replace')[-3000:]}")

    def _left(self) -> Iterator[int]:
        """Workers of this rig that no batch system has started."""
        mark = f"AILURUS_BOOTSTRAP_FILE={self.directory}/".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                if mark in environment and not any(one in environment for one in BATCH):
                    yield int(process.name)

    def end(self) -> None:
        """Kill the edges."""
        for process in self.started[1:]:
            self.kill(process)
        del self.started[1:]

    def program(self, name: str, text: str) -> str:
        """A shell script instead of a pilot; its path."""
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

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
        if self.start("init", BIN / "dispatcher", "init", "--store", store).wait(30):
            raise RuntimeError((self.directory / "init.log").read_text())
        port = free_port()
        self.url = f"http://{self._host}:{port}"
        tls: list[object] = []
        if not self._host.startswith("127."):
            chain, key, ca = certificate(self.directory, self._host)
            ca.chmod(0o644)
            self.url, self._trust = f"https://{self._host}:{port}", Trust(ca=str(ca))
            tls = ["--tls-cert", chain, "--tls-key", key]
        self.started.clear()
        self.start(
            "dispatcher",
            BIN / "dispatcher",
            "serve",
            "--store",
            store,
            "--listen",
            f"{self._host}:{port}",
            *tls,
            "--heartbeat",
            "2s",
            "--edge-lease",
            f"{LEASE_S}s",
        )
        until(lambda: _answers(self._host, port), 20, "the dispatcher answers")

    def configure(self, name: str = "real", state: str = "state", **site: Any) -> Path:
        """Write the site file; the values of a test replace the usual ones, key by key."""
        self.site = site
        token = self.directory / f"{name}.token"
        if not token.exists():
            ask = m.NewToken(subject="edge", scopes=(f"ailurus.edge:{name}",))
            token.touch(0o600)
            token.write_text(self.client.call("token", ask, answer=m.Token).token)
            self._own(token)
        usual: dict[str, Any] = {
            "schema": 1,
            "site": name,
            "backend": {
                "kind": self.system.kind,
                "limits": {"poll": "0.5s", "settle": "2s", "grace": "2s", "command_timeout": "3s"},
                "options": self._options(site),
            },
            "dispatcher": {"url": self.url, "token_file": str(token), **self._known_by()},
            "paths": {"work": f"{self.directory}/work", "state": f"{self.directory}/{state}"},
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
        self._give(self.directory / state)
        path = self.directory / f"{name}-{state}.yaml"
        path.write_text(json.dumps(_over(usual, site), indent=2))
        self.site_file = path
        return path

    def _known_by(self) -> dict[str, str]:
        return {"ca": self._trust.ca} if self._trust.ca else {}

    def _options(self, site: Mapping[str, Any]) -> dict[str, Any]:
        kind = site.get("backend", {}).get("kind", self.system.kind)
        if kind == "local":  # it runs no commands
            return {}
        return {"prefix": [str(self.directory / "liar"), *self.system.prefix]}

    def edge(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """An edge of the site that was configured last."""
        argv = (BIN / "harvester-edge", "run", "--config", self.site_file, *options)
        return self.start("edge", *argv, **environment)

    def tick(self) -> None:
        argv = (BIN / "harvester-edge", "tick", "--config", self.site_file)
        self.start("tick", *argv).wait(60)

    def lie(self, mode: str) -> None:
        """What the liar does at the next submission."""
        (self.directory / "mode").write_text(mode)
        self._own(self.directory / "mode")

    # what a test asks -----------------------------------------------------------------------------

    @property
    def submissions(self) -> int:
        return sum(one in SUBMITS for one in self._calls().split())

    @property
    def listings(self) -> int:
        return len(LISTS.findall(self._calls()))

    def _calls(self) -> str:
        calls = self.directory / "calls"
        return calls.read_text() if calls.exists() else ""

    def workers(self, where: str = "1", state: str = "state") -> list[dict[str, Any]]:
        """Rows of the edge's book."""
        book = self.directory / state / "book.sqlite"
        if not book.exists():
            return []
        db = sqlite3.connect(f"{book.as_uri()}?mode=ro", uri=True)
        db.row_factory = sqlite3.Row
        with contextlib.closing(db), contextlib.suppress(sqlite3.OperationalError):
            return [dict(row) for row in db.execute(f"select * from worker where {where}")]  # noqa: S608
        return []

    def forget(self) -> None:
        """Lose all that the edge has written down, and who it is."""
        for file in (self.directory / "state").glob("book.sqlite*"):
            file.unlink()

    def forgive(self) -> None:
        """Close the breakers: what a test kills says nothing about the site."""
        with (
            contextlib.closing(sqlite3.connect(self.directory / "state" / "book.sqlite")) as db,
            db,
        ):
            db.execute("delete from health")

    def registered(self) -> list[m.WorkerRow]:
        """Workers whose pilot has ever registered at the dispatcher."""
        rows = self.client.call("workers", WorkersQuery(ended=True), answer=WorkerRows).workers
        return [row for row in rows if row.registered]

    def known(self, state: str = "state") -> list[str]:
        """Names of the workers that the edge knows to live in the batch system."""
        rows = self.workers("phase != 'ended' and batch_id != ''", state)
        return sorted(f"{row['intent']}.{row['index']}" for row in rows)

    def agrees(self, count: int, state: str = "state") -> bool:
        """Whether the batch system has so many workers, and the edge knows each of them once."""
        known = self.known(state)
        return len(known) == count and known == sorted(self.system.live())

    def submit(self, count: int, command: str = "true", **fields: Any) -> list[int]:
        """Jobs for the queue; their ids."""
        fields = {"queue": QUEUE, "memory_mb": 10, "disk_mb": 10, **fields}
        jobs = [JobSpec(name=f"j{n}", command=command, **fields) for n in range(count)]
        return list(self.client.submit(jobs).job_ids)

    def finished(self, ids: list[int], seconds: float = 90) -> bool:
        states = self.client.wait(ids, seconds).states
        return set(states.values()) == {"finished"}

    def log(self) -> str:
        return (self.directory / "edge.log").read_text()


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


def _over(usual: Mapping[str, Any], wish: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**usual, **wish}
    for key in usual.keys() & wish.keys():
        if isinstance(usual[key], dict) and isinstance(wish[key], dict):
            merged[key] = _over(usual[key], wish[key])
    return merged
