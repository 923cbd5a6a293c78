"""Jobs whose data are in a real Rucio: dispatcher, pilot, their processes for Rucio, and storage,
all of them real."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import pytest
import yaml

from ailurus.protocol.did import Did
from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from tests.rig import proc
from tests.rig import rucio as at
from tests.rig.programs import BIN, QUEUE, Rig, run
from tests.rig.proxy import Fault, Proxy
from tests.rig.services import Service
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(110)]

T = TypeVar("T")
CALIBRATION = b"a calibration\n" * 50
RAW = {"raw.1": b"one\n" * 1000, "raw.2": b"two\n" * 3000}
HITS = b"".join([CALIBRATION, *RAW.values()])
DONE_S = 40.0


class Experiment:
    """A dispatcher whose catalogue is Rucio, a pilot at one of its storages, and a user, alice."""

    def __init__(
        self,
        rucio: Service,
        folder: Path,
        rse: str = "POSIX",
        *,
        user: str = "alice",
        account: str = "panda",
        url: str = "",
    ) -> None:
        self.folder = folder
        catalogue = at.catalogue(rucio, folder, account, url)
        self.rig = Rig(
            heartbeat_s=0.5,
            serve=("--catalogue", catalogue, "--log-level", "debug"),
            storage=at.storage(rucio, rse),
        )
        try:
            scopes = ("compute.read", "compute.create", "compute.modify")
            self.token = self.rig.token(user, *scopes)
            self.client = Client(self.rig.url, TokenFile(self.token))
            ca = rucio.facts["xrootd"]["ca_file"]
            self.pilot = self.rig.pilot("--log-level", "debug", "--ca", ca)
        except BaseException:
            self.rig.close(keep=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.rig.__exit__(*error)

    def cli(self, verb: str, *words: object) -> str:
        """What a command of the dispatcher says to alice."""
        where = ("--url", self.rig.url, "--token-file", self.token)
        return run(BIN / "dispatcher", verb, *where, *words)

    def submit(self, **job: Any) -> int:
        """A job as alice writes it."""
        path = self.folder / "job.yaml"
        usual = {"name": "job", "queue": QUEUE, "memory": 100, "disk": 100, "max_attempts": 1}
        path.write_text(yaml.safe_dump({**usual, **job}), encoding="utf-8")
        (job_id,) = json.loads(self.cli("submit", "--json", path))["job_ids"]
        return int(job_id)

    def ended(self, job_id: int) -> Any:
        """All about a job that has ended."""
        self.client.wait([job_id], DONE_S)
        return self.client.show(job_id)

    def finished(self, job_id: int) -> Any:
        """The same of one that has finished."""
        job = self.ended(job_id)
        assert job.row.state == "finished", job.row.diagnosis
        return job

    def registration(self, job_id: int, state: str) -> Any:
        """A job's only file, once its registration is in that state."""

        def look() -> Any:
            (file,) = self.client.show(job_id).files
            return file if file.registration == state else None

        return until(look, DONE_S, f"registration is {state}", every_s=0.2)


def output(name: str, dataset: str = "", lifetime: str = "") -> dict[str, str]:
    """As a job has one of alice's."""
    said = {"dataset": dataset and f"user.alice:{dataset}", "lifetime": lifetime}
    return {"name": name, "scope": "user.alice", **{key: one for key, one in said.items() if one}}


def did_of(file: Any) -> str:
    """What an output is called in Rucio."""
    return str(Did.of_url(Url.parse(file.url)))


def slowly(look: Callable[[], T], why: str) -> T:
    """`until`, for what costs a process each time."""
    return until(look, DONE_S, why, every_s=1.0)


@pytest.fixture
def mark() -> str:
    """What names of data sets and inputs end in: all tests share one Rucio."""
    return token_hex(4)


@pytest.fixture(scope="module")
def data(rucio: Service, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is in Rucio before: a file at one storage, a data set at another."""
    into = tmp_path_factory.mktemp("data")
    at.upload(rucio, "ROOT", {"user.alice:calibration": CALIBRATION}, into)
    raw = {f"user.alice:{name}": content for name, content in RAW.items()}
    at.upload(rucio, "DAVS", raw, into, dataset="user.alice:raw")


class Processes:
    """Argument lists and environments of programs and all that they start, looked at again and
    again."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: set[bytes] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            for pid in self._pids():
                self.seen |= {proc.words(one) for one in (pid, *proc.below(pid))}


def secrets(rucio: Service) -> set[bytes]:
    """Passwords, and tokens that Rucio gave for them."""
    found = {about["password"].encode() for about in rucio.facts["accounts"].values()}
    for about in rucio.facts["accounts"].values():
        tokens = Path(about["config"]).parents[1] / "token"
        files = tokens.rglob("*") if tokens.is_dir() else [tokens]
        found |= {path.read_bytes().strip() for path in files if path.is_file()}
    return found


@pytest.mark.parametrize("rse", ["POSIX", "ROOT", "DAVS"])
def test_a_job_reads_and_writes_data_of_rucio(rucio, data, tmp_path, mark, rse):
    with Experiment(rucio, tmp_path, rse) as here:
        hits, dataset = f"hits.{mark}", f"set.{mark}"
        pids = [here.rig.dispatcher.pid, here.pilot.pid]
        with Processes(lambda: pids) as processes:
            job_id = here.submit(
                command=f"cat calibration raw/raw.1 raw/raw.2 > {hits}",
                inputs=["rucio://user.alice:calibration", "rucio://user.alice:raw"],
                outputs=[output(hits, dataset, "30d")],
            )
            here.finished(job_id)
            file = here.registration(job_id, "done")
            closed = slowly(
                lambda: (
                    (found := at.known(rucio, f"user.alice:{dataset}"))
                    and not found["open"]
                    and found
                ),
                "the data set is closed",
            )
        logs = b"".join(path.read_bytes() for path in here.rig.directory.glob("*.log"))
    did, adler32 = did_of(file), f"{zlib.adler32(HITS):08x}"
    name = did.partition(":")[2]
    assert name.endswith(f".{job_id}.1.{hits}")
    assert (file.size, file.adler32) == (len(HITS), adler32)
    assert closed["files"] == [[did, len(HITS), adler32]]
    known = at.known(rucio, did)
    assert known is not None
    assert set(known["replicas"][did]) == {rse}
    assert known["parents"] == [f"user.alice:{dataset}"]
    assert known["rules"] == [["panda", rse, "OK", True]]

    (uploaded,) = until(lambda: at.traces(rucio, name), 10, "the upload's trace comes")
    assert (uploaded["eventType"], uploaded["remoteSite"]) == ("upload", rse)
    assert (uploaded["clientState"], uploaded["filesize"]) == ("DONE", len(HITS))
    for read in ("calibration", *RAW):
        done = [one for one in at.traces(rucio, read) if one["localSite"] == rse]
        assert ("download", "DONE") in {(one["eventType"], one["clientState"]) for one in done}

    assert any(b"dispatcher.catalogue.child" in one for one in processes.seen)
    assert any(b"pilot.process.mover" in one for one in processes.seen)
    told, known_secrets = b"\n".join([logs, *processes.seen]), secrets(rucio)
    assert len(known_secrets) > len(rucio.facts["accounts"]), "no token is looked for"
    assert [one[:12] for one in known_secrets if one in told] == []


def test_the_catalogue_shows_a_data_set_and_has_it_kept_elsewhere_once(rucio, data, tmp_path):
    file = at.catalogue(rucio, tmp_path)

    def described(*words):
        return json.loads(
            run(BIN / "dispatcher", "catalogue", file, "user.alice:raw", "--json", *words)
        )

    there = described()
    assert (there["contents"]["kind"], there["files"]) == ("dataset", len(RAW))
    sizes = {one["name"]: one["size"] for one in there["contents"]["files"]}
    assert sizes == {f"user.alice:{name}": len(content) for name, content in RAW.items()}
    assert all(where == ["DAVS"] for where in there["replicas"].values())
    for _ in range(2):
        ruled = described("--rule", "ROOT", "--lifetime", "1d")
    # Nothing moves files here: the rule waits.
    (kept,) = [one for one in ruled["rules"] if one["where"] == "ROOT"]
    assert (kept["state"], kept["done"], kept["moving"]) == ("REPLICATING", 0, len(RAW))
    assert 0 < kept["expires"] - time.time() <= 86_400
    with pytest.raises(RuntimeError, match=r"ended with 66: .*knows nothing called user\.alice:no"):
        run(BIN / "dispatcher", "catalogue", file, "user.alice:no")
    with pytest.raises(RuntimeError, match=r"ended with 65: .*RSE"):
        described("--rule", "NO_SUCH_PLACE")


def test_outputs_of_two_stores_share_a_scope_and_no_name(rucio, tmp_path, mark):
    name, dids = f"same.{mark}", []
    for content in ("one", "other"):
        folder = tmp_path / content
        folder.mkdir()
        with Experiment(rucio, folder) as here:
            job_id = here.submit(command=f"echo {content} > {name}", outputs=[output(name)])
            here.finished(job_id)
            dids.append((job_id, did_of(here.registration(job_id, "done"))))
    (first_id, first), (second_id, second) = dids
    assert first_id == second_id
    assert first != second
    sizes = [at.known(rucio, did)["files"][0][1] for did in (first, second)]
    assert sizes == [len("one\n"), len("other\n")]


def test_a_lost_replica_costs_a_try_and_the_last_one_the_job(rucio, data, tmp_path, mark):
    twice, once = f"twice.{mark}", f"once.{mark}"
    at.upload(
        rucio, "POSIX", {f"user.alice:{twice}": b"2", f"user.alice:{once}": b"1"}, tmp_path / "in"
    )
    storage = rucio.directory / "storage"
    for name in (twice, once):
        (lost,) = storage.rglob(name)
        # Where Rucio would have put it at the other storage.
        path = Path(rucio.facts["xrootd"]["store"], "rucio-root", lost.relative_to(storage))
        path.parent.mkdir(parents=True, exist_ok=True)
        # The server may put other files there later, as a user of its own.
        for made in path.parents[:2]:
            made.chmod(0o777)
        lost.rename(path)
    second = {
        "scope": "user.alice",
        "name": twice,
        "bytes": 1,
        "adler32": f"{zlib.adler32(b'2'):08x}",
    }
    at.administer(rucio, f'client.add_replicas("ROOT", [{second}])')
    with Experiment(rucio, tmp_path) as here:
        good = here.submit(command=f"test -s {twice}", inputs=[f"rucio://user.alice:{twice}"])
        bad = here.submit(command="true", inputs=[f"rucio://user.alice:{once}"])
        here.finished(good)
        failed = here.ended(bad)
        # The first fails, the second is tried.
        tried = until(
            lambda: (found := at.traces(rucio, twice))[1:] and found, 10, "its traces come"
        )
    assert failed.row.state == "failed"
    # As Pilot 3.7.0.36 told of the same, two minutes after it.
    assert failed.row.code == Code.MISSING_INPUT
    assert once in failed.row.diagnosis
    downloads = [one for one in tried if one["eventType"] == "download"]
    states = {one["remoteSite"]: one["clientState"] for one in downloads}
    assert states == {"POSIX": "FAILED", "ROOT": "DONE"}


def test_a_refused_quota_is_told_and_can_be_tried_again(rucio, tmp_path, mark):
    # Administrators have no quota, and others may add replicas at storage of such a name alone.
    rse, limit = f"{mark.upper()}_SCRATCHDISK", "client.set_local_account_limit('bob', "
    at.administer(
        rucio,
        f"client.add_rse('{rse}', deterministic=True, rse_type='DISK')\n"
        f"client.add_protocol('{rse}', client.get_protocols('POSIX')[0])",
    )
    hits = {"name": f"hits.{mark}", "scope": "user.bob"}
    with Experiment(rucio, tmp_path, rse, user="bob", account="bob") as here:
        job_id = here.submit(command=f"echo > hits.{mark}", outputs=[hits])
        here.finished(job_id)
        file = here.registration(job_id, "refused")
        shown, why = here.cli("show", job_id), here.cli("why", job_id)
        at.administer(rucio, f"{limit}'{rse}', -1)")
        here.cli("register", job_id)
        here.registration(job_id, "done")
    assert "InsufficientAccountLimit" in file.reason
    assert "rucio account limit add" in file.remedy
    assert file.reason in shown
    assert file.remedy in shown
    assert "InsufficientAccountLimit" in why


class Away:
    """Rucio does not answer; once it does, its first answer about replicas is lost."""

    def __init__(self) -> None:
        self.away, self.lost = True, 0
        self.proxy: Proxy | None = None

    def fault(self, _: int) -> Fault:
        assert self.proxy is not None
        if self.away:
            return Fault.CUT
        if not self.lost and self.proxy.seen[-1].path == "/replicas":
            self.lost += 1
            return Fault.LOST
        return Fault.NONE


def test_outputs_are_registered_once_whatever_is_away_or_killed(rucio, data, tmp_path, mark):
    network, port = Away(), urlsplit(rucio.facts["url"]).port
    assert port is not None
    with (
        Proxy(port, network.fault) as network.proxy,
        Experiment(rucio, tmp_path, url=network.proxy.url) as here,
    ):
        hits, dataset = f"hits.{mark}", f"late.{mark}"
        job_id = here.submit(command=f"echo > {hits}", outputs=[output(hits, dataset)])
        here.finished(job_id)
        until(lambda: network.proxy.requests, DONE_S, "the catalogue is asked")
        did = did_of(here.registration(job_id, "due"))
        assert at.known(rucio, did) is None
        here.rig.dispatcher.kill()
        here.rig.serve()
        waiting = here.registration(job_id, "due")
        network.away = False
        here.registration(job_id, "done")
        slowly(
            lambda: not at.known(rucio, f"user.alice:{dataset}")["open"],
            "the data set is closed",
        )
    known = at.known(rucio, did)
    assert network.lost == 1
    assert known is not None
    assert waiting.registration == "due"
    assert list(known["replicas"][did]) == ["POSIX"]
    assert known["parents"] == [f"user.alice:{dataset}"]
    assert known["rules"] == [["panda", "POSIX", "OK", False]]
