"""Jobs whose outputs a real Rucio is to know, and what jobs, storage and catalogue say of them in
the end, held against each other."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from ailurus.wire.retry import Patience
from tests.rig import history
from tests.rig import rucio as at
from tests.rig.programs import QUEUE, Rig
from tests.rig.services import Service
from tests.rig.settled import SITE, settled
from tests.rig.waiting import until

HEARTBEAT_S = 1.0
TREE = 8
"""Files of a job that leaves a directory; every other job does."""
_SCOPES = ("compute.read", "compute.create", "compute.modify")


class Site:
    """A dispatcher with Rucio as its catalogue, and an edge whose pilots store at one RSE."""

    def __init__(
        self,
        rucio: Service,
        rse: str,
        seed: int,
        folder: Path,
        *,
        attempts: int,
        url: str = "",
        **storage: Any,
    ) -> None:
        """`folder`: for files of the run; `attempts`: of a job, at most; `url`: where the
        dispatcher reaches Rucio; `storage`: more of the site file's."""
        self.rucio, self.rse, self.chance = rucio, rse, random.Random(seed)
        self._attempts = attempts
        self._before = stored(rucio, rse)
        asked = {**at.storage(rucio, rse), **_davs_by_gfal2(rucio), **storage}
        self.rig = Rig(
            heartbeat_s=HEARTBEAT_S,
            cores=2,
            serve=("--catalogue", at.catalogue(rucio, folder, url=url)),
            **{**SITE, "storage": asked},
        )
        self.mark = self.rig.mark.rpartition("-")[2]
        token = TokenFile(self.rig.token("alice", *_SCOPES))
        self.client = Client(self.rig.url, token, patience=Patience(total_s=120))
        # Of each job, what its files have, by their names.
        self.expected: dict[int, dict[str, bytes]] = {}

    def submit(self, number: int, datasets: Sequence[int]) -> None:
        """More jobs, with a file or a directory each, for these data sets by chance."""
        jobs, contents = [], []
        for nr in range(number):
            word = f"{self.mark} {self.chance.getrandbits(64):x}"
            times = self.chance.randrange(1, 20_000)
            names = [f"out.{self.mark}"]
            if nr % 2:
                names = [f"out.{self.mark}/sub/{file}" for file in range(TREE)]
            dataset = f"chaos.{self.mark}.{self.chance.choice(datasets)}"
            jobs.append(_job(word, times, names, dataset, self._attempts))
            contents.append(dict.fromkeys(names, f"{word}\n".encode() * times))
        job_ids = self.client.submit(jobs).job_ids
        self.expected |= dict(zip(job_ids, contents, strict=True))

    def between(self) -> tuple[int, int]:
        """How many outputs are on their way to storage, and how many are to be registered."""
        ((uploads,),) = self.rig.rows("select count(*) from job where state = 'holding'")
        ((due,),) = self.rig.rows("select count(*) from registration where state = 'due'")
        return int(uploads), int(due)

    def end(self) -> list[str]:
        """Stop all, and hold jobs, storage and catalogue against each other: what is wrong."""
        found = settled(self.rig)
        found += history.states(self.rig, list(self.expected))
        found += self._told()
        found += self._compared(stored(self.rucio, self.rse) - self._before)
        return found

    def wait(self, seconds: float) -> None:
        """Let all jobs end, all outputs be registered, all data sets be closed, and everything that
        dead pilots owed be done. Raises TimeoutError where one of these takes longer."""
        jobs = list(self.expected)
        until(lambda: self._final(jobs), seconds, "all jobs end", every_s=0.5)
        left = "select count(*) from registration where state <> 'done'"
        until(lambda: self._none(left), seconds, "all outputs are registered", every_s=0.2)
        still_open = "select count(*) from dataset_use where open = 1"
        until(lambda: self._none(still_open), seconds, "data sets are closed", every_s=0.2)
        # Journals of pilots that have not done all.
        owed = self.rig.directory
        until(
            lambda: not list(owed.glob("work/*spool*/*.journal")),
            seconds,
            "nothing is owed for dead pilots",
            every_s=0.2,
        )

    def _none(self, count: str) -> bool:
        return self.rig.rows(count) == [(0,)]

    def _final(self, jobs: list[int]) -> bool:
        states = self.client.wait(jobs, 0).states
        return all(state in FINAL for state in states.values()) if jobs else True

    def _told(self) -> Iterator[str]:
        """Each file was told of once."""
        told = Counter(
            nr for (nr,) in self.rig.rows("select job_id from event where kind = 'registered'")
        )
        yield from (
            f"of job {nr} {told[nr]} files were registered, and it has {len(files)}"
            for nr, files in self.expected.items()
            if told[nr] != len(files)
        )
        other = "select job_id, reason from registration where state <> 'done'"
        if left := self.rig.rows(other):
            yield f"outputs that are not registered: {left[:3]}"

    def _compared(self, there: set[Path]) -> Iterator[str]:
        """What storage and catalogue have, held against the dispatcher's book."""
        book = {
            lfn: self.expected[job_id][name]
            for lfn, job_id, name in self.rig.rows("select lfn, job_id, name from registration")
        }
        known = at.everything(self.rucio, "user.alice", self.mark)
        files = {name: about for name, about in known.items() if about["type"] == "FILE"}
        yield from (
            f"orphan in the catalogue: {name}" for name in sorted(files.keys() - book.keys())
        )
        yield from (f"not in the catalogue: {name}" for name in sorted(book.keys() - files.keys()))
        for name in sorted(files.keys() & book.keys()):
            content, about = book[name], files[name]
            right = {"bytes": len(content), "adler32": f"{zlib.adler32(content):08x}",
                     "rses": [self.rse], "rules": 1}  # fmt: skip
            wrong = {key: about[key] for key, value in right.items() if about[key] != value}
            if wrong or len(about["parents"]) != 1:
                yield f"{name} is {wrong} in the catalogue, in {about['parents']}"
        yield from (f"{name} is open" for name, about in known.items() if about["open"])
        found = {name: path for path in there if (name := _named(path, book))}
        yield from (f"orphan in storage: {path}" for path in sorted(there - {*found.values()}))
        for name, content in book.items():
            if name not in found or found[name].read_bytes() != content:
                yield f"{name} is not in storage, or not what its job wrote"


def _davs_by_gfal2(rucio: Service) -> dict[str, Any]:
    trust = {name: rucio.facts["xrootd"][name] for name in ("ca_dir", "ca_file")}
    return {
        "plugins": {"davs": "gfal2"},
        "gfal2": {"ca_dir": trust["ca_dir"], "ca": trust["ca_file"]},
    }


def _job(word: str, times: int, names: list[str], dataset: str, attempts: int) -> JobSpec:
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
        "max_attempts": attempts,
        "outputs": [output],
    }
    return msgspec.convert(asked, JobSpec)


def _named(path: Path, book: Mapping[str, bytes]) -> str:
    """Under which name of the book a file lies, which may have directories; blank: under none."""
    tails = ("/".join(path.parts[nr:]) for nr in range(1, len(path.parts)))
    return next((tail for tail in tails if tail in book), "")


def stored(rucio: Service, rse: str) -> set[Path]:
    """The files of an RSE; what jobs leave beside it (logs) is not its."""
    url = urlsplit(rucio.facts["rses"][rse]["url"])
    top = rucio.directory / "storage"
    if url.scheme != "file":
        top = Path(rucio.facts["xrootd"]["store"]) / Path(url.path).name
    logs = rucio.directory / "storage" / "logs"
    return {path for path in top.rglob("*") if path.is_file() and logs not in path.parents}
