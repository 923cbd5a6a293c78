"""kill -9 of a pilot, of its mover, of the dispatcher and of its catalogue's process, each between
the begin of an upload and the end of its registration in a real Rucio; then jobs, storage and
catalogue are compared."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from ailurus.wire.retry import Patience
from tests.rig import history, proc
from tests.rig import rucio as at
from tests.rig.programs import QUEUE, Rig
from tests.rig.services import Service
from tests.rig.settled import SITE, settled
from tests.rig.waiting import until

KINDS = ("pilot", "mover", "dispatcher", "catalogue")
"""What is killed, in turn."""
RSES = ("ROOT", "DAVS", "POSIX")
HEARTBEAT_S = 1.0
SPAN_S = 0.6
"""How long it may take from the begin of an upload to the end of its registration: a kill comes at
a moment of chance in it."""
WAITING = 8
"""So many jobs are queued at least while there is something to kill."""
ATTEMPTS = 20
DATASETS = 3
TREE = 8
"""Files of a job that leaves a directory; every other job does."""
END_S = 150.0


class Count(Struct, kw_only=True):
    """What came of some kills."""

    kills: Counter[str] = msgspec.field(default_factory=Counter)
    """By what was killed."""
    uploads: int = 0
    """Kills while an output was on its way to storage, or its report to the dispatcher."""
    registrations: int = 0
    """Kills while one was to be registered."""
    jobs: int = 0
    attempts: dict[str, int] = {}
    faults: list[str] = []


class _Site:
    """A dispatcher with Rucio as its catalogue, and an edge whose pilots store at one RSE."""

    def __init__(self, rucio: Service, rse: str, seed: int, folder: Path) -> None:
        self.rucio, self.rse, self.chance = rucio, rse, random.Random(seed)
        storage = {**at.storage(rucio, rse), **_davs_by_gfal2(rucio)}
        self.rig = Rig(
            heartbeat_s=HEARTBEAT_S,
            cores=2,
            serve=("--catalogue", at.catalogue(rucio, folder)),
            **{**SITE, "storage": storage},
        )
        self.mark = self.rig.mark.rpartition("-")[2]
        token = TokenFile(self.rig.token("alice", *_SCOPES))
        self.client = Client(self.rig.url, token, patience=Patience(total_s=120))
        # Of each job, what its files have, by their names.
        self.expected: dict[int, dict[str, bytes]] = {}

    def submit(self, number: int) -> None:
        """More jobs, with a file or a directory each."""
        jobs, contents = [], []
        for nr in range(number):
            word = f"{self.mark} {self.chance.getrandbits(64):x}"
            times = self.chance.randrange(1, 20_000)
            names = [f"out.{self.mark}"]
            if nr % 2:
                names = [f"out.{self.mark}/sub/{file}" for file in range(TREE)]
            jobs.append(
                _job(word, times, names, f"chaos.{self.mark}.{self.chance.randrange(DATASETS)}")
            )
            contents.append(dict.fromkeys(names, f"{word}\n".encode() * times))
        job_ids = self.client.submit(jobs).job_ids
        self.expected |= dict(zip(job_ids, contents, strict=True))

    def waiting(self) -> int:
        ((number,),) = self.rig.rows("select count(*) from job where state = 'activated'")
        return int(number)

    def busy(self) -> bool:
        """Whether there is something to kill; sees to it that there will be."""
        if self.waiting() < WAITING:
            self.submit(WAITING)
        return any(self.between())

    def between(self) -> tuple[int, int]:
        """How many outputs are on their way to storage, and how many are to be registered."""
        ((uploads,),) = self.rig.rows("select count(*) from job where state = 'holding'")
        ((due,),) = self.rig.rows("select count(*) from registration where state = 'due'")
        return int(uploads), int(due)

    def victims(self, kind: str) -> list[int]:
        """Processes of a kind that live now."""
        if kind == "pilot":
            return self.rig.pilots()
        if kind == "dispatcher":
            return [self.rig.dispatcher.pid]
        if kind == "catalogue":
            return _below([self.rig.dispatcher.pid], b"dispatcher.catalogue.child")
        return _below(self.rig.pilots(), b"pilot.process.mover")


_SCOPES = ("compute.read", "compute.create", "compute.modify")


def _davs_by_gfal2(rucio: Service) -> dict[str, Any]:
    trust = {name: rucio.facts["xrootd"][name] for name in ("ca_dir", "ca_file")}
    return {
        "plugins": {"davs": "gfal2"},
        "gfal2": {"ca_dir": trust["ca_dir"], "ca": trust["ca_file"]},
    }


def _job(word: str, times: int, names: list[str], dataset: str) -> JobSpec:
    """One that writes a word so many times into each of these files."""
    top, *below = names[0].split("/")
    output = {"name": top, "scope": "user.alice", "dataset": f"user.alice:{dataset}"}
    command = f"yes {word} | head -n {times} | tee {' '.join(names)} > /dev/null"
    if below:
        output |= {"name": f"{top}/", "tree": "dataset"}
        command = f"mkdir -p {top}/sub && {command}"
    asked = {
        "name": "chaos",
        "command": command,
        "queue": QUEUE,
        "memory_mb": 10,
        "disk_mb": 100,
        "max_attempts": ATTEMPTS,
        "outputs": [output],
    }
    return msgspec.convert(asked, JobSpec)


def _below(pids: list[int], word: bytes) -> list[int]:
    return [one for pid in pids for one in proc.below(pid) if word in proc.words(one)]


def run(rucio: Service, rse: str, kills: int, seed: int, folder: Path) -> Count:
    """So many kills at one RSE; `folder`: for files of the run."""
    before = _stored(rucio, rse)
    site = _Site(rucio, rse, seed, folder)
    count = Count()
    with site.rig as rig:
        rig.start_edge()
        kinds = [KINDS[nr % len(KINDS)] for nr in range(kills)]
        for nr, kind in enumerate(kinds):
            _kill(site, kind, count)
            if nr % 10 == 9:
                sys.stderr.write(f"  {rse}: {nr + 1} kills\n")
        try:
            _ended(site)
        except TimeoutError as error:
            count.faults.append(str(error))
        count.faults += settled(rig)
        count.faults += history.states(rig, list(site.expected))
        count.faults += _registered(site)
        count.faults += _compared(site, _stored(rucio, rse) - before)
        count.jobs = len(site.expected)
        count.attempts = dict(history.attempts(rig))
        rig.keep = bool(count.faults)
    return count


def _kill(site: _Site, kind: str, count: Count) -> None:
    """One, while there is an output between upload and registration."""

    def hit() -> bool:
        until(site.busy, 60, "an output is stored")
        time.sleep(site.chance.uniform(0.0, SPAN_S))
        uploads, due = site.between()
        victims = site.victims(kind)
        if not (uploads or due) or not victims or not _gone(site.chance.choice(sorted(victims))):
            return False
        count.uploads += bool(uploads)
        count.registrations += bool(due)
        return True

    until(hit, 120, f"a {kind} is killed", every_s=0.0)
    count.kills[kind] += 1
    if kind == "dispatcher":
        site.rig.dispatcher.process.wait()
        site.rig.serve()


def _gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _ended(site: _Site) -> None:
    """Let all jobs end, all outputs be registered, all data sets be closed, and everything that
    dead pilots owed be done. Raises TimeoutError."""
    jobs = list(site.expected)
    until(lambda: _all_final(site, jobs), END_S, "all jobs end", every_s=0.5)
    left = "select count(*) from registration where state <> 'done'"
    until(lambda: site.rig.rows(left) == [(0,)], END_S, "all outputs are registered", every_s=0.2)
    still_open = "select count(*) from dataset_use where open = 1"
    until(lambda: site.rig.rows(still_open) == [(0,)], 30, "data sets are closed", every_s=0.2)
    until(lambda: not _owed(site), END_S, "nothing is owed for dead pilots", every_s=0.2)


def _owed(site: _Site) -> list[Path]:
    """Journals of pilots that have not done all."""
    return list(site.rig.directory.glob("work/*spool*/*.journal"))


def _all_final(site: _Site, jobs: list[int]) -> bool:
    states = site.client.wait(jobs, 0).states
    return all(state in FINAL for state in states.values()) if jobs else True


def _registered(site: _Site) -> Iterator[str]:
    """Each file was told of once."""
    told = Counter(
        nr for (nr,) in site.rig.rows("select job_id from event where kind = 'registered'")
    )
    yield from (
        f"of job {nr} {told[nr]} files were registered, and it has {len(files)}"
        for nr, files in site.expected.items()
        if told[nr] != len(files)
    )
    if other := site.rig.rows("select job_id, reason from registration where state <> 'done'"):
        yield f"outputs that are not registered: {other[:3]}"


def _compared(site: _Site, stored: set[Path]) -> Iterator[str]:
    """What storage and catalogue have, held against the dispatcher's book."""
    book = {
        lfn: site.expected[job_id][name]
        for lfn, job_id, name in site.rig.rows("select lfn, job_id, name from registration")
    }
    known = at.everything(site.rucio, "user.alice", site.mark)
    files = {name: about for name, about in known.items() if about["type"] == "FILE"}
    yield from (f"orphan in the catalogue: {name}" for name in sorted(files.keys() - book.keys()))
    yield from (f"not in the catalogue: {name}" for name in sorted(book.keys() - files.keys()))
    for name in sorted(files.keys() & book.keys()):
        content, about = book[name], files[name]
        right = {"bytes": len(content), "adler32": f"{zlib.adler32(content):08x}",
                 "rses": [site.rse], "rules": 1}  # fmt: skip
        wrong = {key: about[key] for key, value in right.items() if about[key] != value}
        if wrong or len(about["parents"]) != 1:
            yield f"{name} is {wrong} in the catalogue, in {about['parents']}"
    yield from (f"{name} is open" for name, about in known.items() if about["open"])
    found = {name: path for path in stored if (name := _named(path, book))}
    yield from (f"orphan in storage: {path}" for path in sorted(stored - {*found.values()}))
    for name, content in book.items():
        if name not in found or found[name].read_bytes() != content:
            yield f"{name} is not in storage, or not what its job wrote"


def _named(path: Path, book: Mapping[str, bytes]) -> str:
    """Under which name of the book a file lies, which may have directories; blank: under none."""
    tails = ("/".join(path.parts[nr:]) for nr in range(1, len(path.parts)))
    return next((tail for tail in tails if tail in book), "")


def _stored(rucio: Service, rse: str) -> set[Path]:
    """The files of an RSE; what jobs leave beside it (logs) is not its."""
    url = urlsplit(rucio.facts["rses"][rse]["url"])
    top = rucio.directory / "storage"
    if url.scheme != "file":
        top = Path(rucio.facts["xrootd"]["store"]) / Path(url.path).name
    logs = rucio.directory / "storage" / "logs"
    return {path for path in top.rglob("*") if path.is_file() and logs not in path.parents}
