"""Real programs of ours on loopback, in a temporary directory, ended by process id when it
closes."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile, Trust, fixed_token
from ailurus.wire.retry import Patience
from tests.rig import proc
from tests.rig.ports import free_port
from tests.rig.waiting import until

BIN = Path(sys.executable).parent
QUEUE = "bench"
SITE = "bench"
TUNED = ("shared_buffers=512MB", "max_wal_size=4GB")  # of a PostgreSQL that is measured


class Program:
    """A process of ours, known by its id."""

    def __init__(self, argv: Sequence[object], log: Path, **environment: str) -> None:
        self.log = log
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**clean, **environment},
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.alive:
            self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, patience_s: float = 10.0) -> int:
        """TERM, and KILL if that does not help; its exit code."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def use(self) -> proc.Use:
        return proc.use(self.pid)


class Postgres:
    """A PostgreSQL of one's own, in a directory of its own, by scripts/fixtures/postgres."""

    FIXTURE = Path(__file__).parents[2] / "scripts/fixtures/postgres"

    def __init__(self, *settings: str, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="ailurus-pg-"))
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)  # as root it is another user's
        self._settings = settings
        self._made = 0
        self.url = self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("stop")
        run("rm", "-rf", "--", str(self.folder))

    def start(self) -> str:
        """Start it, at first or again; its URL."""
        return self.ask("start", *self._settings)

    def database(self) -> str:
        """The URL of a new, empty database."""
        import psycopg

        self._made += 1
        name = f"queue{self._made}"
        with psycopg.connect(self.url, autocommit=True) as server:
            server.execute(f"create database {name}".encode())
        return self.url.replace("/ailurus?", f"/{name}?")

    def cpu_s(self) -> float:
        """What its processes have used so far, in seconds; of those that live."""
        main = int(self.ask("pid"))
        return proc.cpu_s(main) + sum(proc.cpu_s(one) for one in proc.children(main))

    def ask(self, verb: str, *more: str) -> str:
        """start, stop, kill, running or pid."""
        argv = [str(self.FIXTURE), verb, str(self.folder / "server"), *more]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{verb} of PostgreSQL: {done.stderr[-2000:]}")
        return done.stdout.strip()


class Rig:
    """A dispatcher with its store, and whatever pilots and edges a benchmark starts beside it."""

    def __init__(
        self,
        *,
        heartbeat_s: float = 10.0,
        cores: int = 2,
        serve: Sequence[object] = (),
        postgres: Postgres | None = None,
        dispatchers: int = 1,
        programs: Path = BIN,
        tls: bool = False,
        **site: Any,
    ) -> None:
        """`serve`: more options of `dispatcher serve`; `site`: parts of the site file; `postgres`:
        where the queue is, if not in a file; `dispatchers`: so many share the port; `programs`:
        whose dispatcher and edge, this version's or another's; `tls`: with a certificate of an
        authority of our own."""
        self._programs = programs
        # payloads and pilots may be other users: the way to what they share is open
        self.directory = Path(tempfile.mkdtemp(prefix="ailurus-rig-"))
        self.directory.chmod(0o755)
        self.mark = self.directory.name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.trust: Trust | None = None
        self.context: ssl.SSLContext | None = None
        if tls:
            self.url = self.url.replace("http", "https")
            serve = [*serve, *self._certified()]
        self.heartbeat_s = heartbeat_s
        self._serve_options = serve
        self.store = self.directory / "queue.db"
        self.storage = self.directory / "storage"
        (self.storage / "out").mkdir(parents=True)
        (self.directory / "work").mkdir()
        self.programs: list[Program] = []
        self.postgres = postgres
        self.store_url = f"sqlite:///{self.store}" if postgres is None else postgres.database()
        self._where = ["--store", self.store_url, "--keys", self.directory]
        run(self._programs / "dispatcher", "init", *map(str, self._where))
        (self.admin_token,) = self.directory.glob("*.admin-token")
        self.dispatchers = [self.serve(nr) for nr in range(dispatchers)]
        self.client = Client(
            self.url, TokenFile(self.admin_token), patience=Patience(total_s=120), trust=self.trust
        )
        self.edge_token = self.token("edge", f"ailurus.edge:{SITE}")
        self.pilot_token = self.token("pilot", "ailurus.pilot")
        self._site: dict[str, Any] = {"cores": cores, **site}
        self.keep = False
        self.site_file = self._write_site(self._site)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(keep=self.keep or error is not None)

    def close(self, *, keep: bool = False) -> None:
        """End everything that was started; the directory stays after a failure, to be looked at."""
        for program in reversed(self.programs):
            program.signal(signal.SIGCONT)
            program.signal(signal.SIGTERM)
        for program in reversed(self.programs):
            program.stop()
        proc.end(proc.marked(self.mark), self.mark)
        if keep:
            sys.stderr.write(f"kept for a look: {self.directory}\n")
        else:
            run("rm", "-rf", "--", str(self.directory))

    def start(self, argv: Sequence[object], name: str, **environment: str) -> Program:
        """Start a program, ended with this rig."""
        environment = {"AILURUS_RIG": self.mark, **environment}
        program = Program(argv, self.directory / f"{name}.log", **environment)
        self.programs.append(program)
        return program

    @property
    def dispatcher(self) -> Program:
        """The only one, or the first."""
        return self.dispatchers[0]

    def serve(self, nr: int = 0) -> Program:
        """Start a dispatcher, at first or again, and wait until it answers."""
        argv = [
            self._programs / "dispatcher",
            "serve",
            "--listen",
            f"127.0.0.1:{self.port}",
            *self._where,
        ]
        argv += ["--heartbeat", f"{self.heartbeat_s}s", *self._serve_options]
        if self.postgres is not None:
            argv.append("--share-port")
        name = f"dispatcher{nr or ''}"
        log = self.directory / f"{name}.log"
        said = log.stat().st_size if log.exists() else 0
        program = self.start(argv, name)
        if hasattr(self, "dispatchers"):
            self.dispatchers[nr] = program
        until(
            lambda: self._answers(program, said), 20, f"the dispatcher answers (see {program.log})"
        )
        return program

    def _certified(self) -> list[object]:
        """Options of a dispatcher that speaks TLS; our own clients learn whom to trust."""
        chain, key, ca = certificate(self.directory)
        self.trust = Trust(ca=str(ca))
        self.context = ssl.create_default_context(cafile=ca)
        return ["--tls-cert", chain, "--tls-key", key]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the store has, past the dispatcher."""
        if self.postgres is not None:
            import psycopg

            with psycopg.connect(self.store_url) as server:
                return server.execute(query.encode()).fetchall()
        store = sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)
        try:
            return store.execute(query).fetchall()
        finally:
            store.close()

    def _answers(self, program: Program, said: int) -> bool:
        if not program.alive:
            raise RuntimeError(f"the dispatcher ended: {program.log.read_text()[-2000:]}")
        if (
            b"listening on" not in program.log.read_bytes()[said:]
        ):  # another may answer on this port
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def token(self, subject: str, *scopes: str) -> Path:
        """A token in a file of mode 600."""
        ask = m.NewToken(subject=subject, scopes=scopes)
        path = self.directory / f"{subject}.token"
        path.touch(0o600)
        path.write_text(self.client.call("token", ask, answer=m.Token).token)
        return path

    def pilot(
        self, *more: str, url: str = "", name: str = "pilot", program: Path = BIN / "pilot"
    ) -> Program:
        """Start a pilot by hand, as a user would."""
        argv: list[object] = [program, "--url", url or self.url, "--queue", QUEUE]
        argv += ["--site", self.site_file, "--token-file", self.pilot_token]
        argv += ["-a", self.directory / "work", *more]
        return self.start(argv, name)

    def start_edge(self) -> Program:
        """Start the edge of the site, at first or again."""
        return self.start(
            [self._programs / "harvester-edge", "run", "--config", self.site_file], "edge"
        )

    def pilots(self) -> list[int]:
        """Process ids of the edge's pilots that live, by the records that its workers keep."""
        return pilots_of(self.directory / "state")

    def through(self, url: str) -> None:
        """Let edge, pilots and our own client speak through something in between."""
        self.client = Client(url, TokenFile(self.admin_token), patience=Patience(total_s=120))
        self.site_file = self._write_site({**self._site, "url": url})

    def programs_at(self, programs: Path, **site: Any) -> None:
        """Start these from now on, with these parts of the site file changed."""
        self._programs = programs
        self._site |= site
        self.site_file = self._write_site(self._site)

    def worker(self, cores: int = 1, queue: str = QUEUE) -> tuple[m.Registered, Client]:
        """A worker that is only its token: the benchmark speaks for it."""
        pilot = Client(self.url, TokenFile(self.pilot_token), trust=self.trust)
        room = Room(cores=cores, memory_mb=10**9, disk_mb=10**9)
        ask = m.Register(instance=secrets.token_hex(8), queue=queue, total=room)
        registered = pilot.call("register", ask, answer=m.Registered)
        return registered, Client(self.url, fixed_token(registered.token), trust=self.trust)

    def workers(self) -> tuple[m.WorkerRow, ...]:
        """Those that live."""
        from ailurus.protocol.api import WorkerRows, WorkersQuery

        return self.client.call("workers", WorkersQuery(), answer=WorkerRows).workers

    def warm(self, workers: int = 1, seconds: float = 20) -> None:
        """Wait until so many pilots have registered."""
        alive = ("active", "draining")
        until(
            lambda: sum(one.phase in alive for one in self.workers()) >= workers,
            seconds,
            f"{workers} pilots register (see {self.directory})",
        )

    def _write_site(self, asked: Mapping[str, Any]) -> Path:
        more = dict(asked)
        cores = more.pop("cores")
        url = more.pop("url", self.url)
        # What tests take away is tried three times, as an input's storage.
        tries = more.pop("tries", {"outage_tolerance": 0})
        site = {
            "schema": 1,
            "site": SITE,
            "backend": {"kind": "local", "limits": {"poll": "1s", "settle": "1s", "grace": "3s"}},
            "dispatcher": {"url": url, "token_file": str(self.edge_token)},
            "paths": {
                "work": str(self.directory / "work"),
                "state": str(self.directory / "state"),
            },
            "slots": {
                "std": {
                    "queue": QUEUE,
                    "cores": cores,
                    "memory": f"{cores * 4}GiB",
                    "disk": f"{cores * 4}GiB",
                    "walltime": "1h",
                }
            },
            "scaling": {"max_total": 2, "max_queued": 2, "per_cycle": 2, "idle_exit": "20s"},
            "container": {"default": "bare", "bare": True},
            **more,
        }
        at = {"roots": [str(self.storage)], "default_output": f"file://{self.storage}/out"}
        site["storage"] = {**tries, **(more.get("storage") or at)}
        path = self.directory / "site.yaml"
        path.write_text(yaml.safe_dump(site))
        return path


def certificate(folder: Path, host: str = "127.0.0.1") -> tuple[Path, Path, Path]:
    """Chain, key and authority of a certificate for a host, as files."""
    import trustme

    authority = trustme.CA()
    made = authority.issue_cert(host)
    chain, key, ca = (folder / name for name in ("chain.pem", "key.pem", "ca.pem"))
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return chain, key, ca


def pilots_of(state: Path) -> list[int]:
    """Process ids of local workers that live, by the records in an edge's state directory."""
    found = []
    for record in (state / "workers").glob("*/*/running"):
        pid, started, _ = record.read_text().split()
        if proc.started(int(pid)) == int(started):
            found.append(int(pid))
    return found


def run(*argv: object, seconds: float = 60) -> str:
    """A command that ends by itself; its output."""
    done = subprocess.run(
        [str(word) for word in argv], check=False, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def null_job(nr: int = 0, **fields: Any) -> JobSpec:
    """A job that does nothing."""
    asked = {
        "name": f"null-{nr}",
        "command": "true",
        "queue": QUEUE,
        "memory_mb": 10,
        "disk_mb": 10,
    }
    return msgspec.convert({**asked, **fields}, JobSpec)


@contextlib.contextmanager
def server(*argv: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A bare peer: a program that says its address on its first line, and ends with this block."""
    with subprocess.Popen([str(w) for w in argv], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
