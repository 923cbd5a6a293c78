"""Relay and pilots as processes: the dispatcher stopped, the relay killed, nodes with no other
way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import CredentialUse
from ailurus.protocol.states import FINAL, JobState
from harvester_edge.relay.keys import pin
from tests.dispatcher.helpers import token
from tests.rig.ports import free_port
from tests.rig.programs import BIN, QUEUE, SITE, Program, Rig, null_job
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(150)]
BOXED = {"default": "bubblewrap", "bare": False}


class Relayed(Rig):
    """A rig whose pilots know nothing but the relay."""

    def __init__(
        self, network: str = "relay", host: str = "127.0.0.1", prefetch: int = 4, **site: object
    ) -> None:
        self.network = network
        self.address = f"{host}:{free_port()}"
        part = {"token_file": "/nowhere", "url": f"https://{self.address}", "listen": self.address,
                "prefetch": prefetch}  # fmt: skip
        super().__init__(network=network, relay=part, **{"container": BOXED, **site})
        part["token_file"] = str(self.token("relay", f"ailurus.relay:{SITE}"))
        self.site_file = self._write_site({**self._site, "relay": part})

    def relay(self) -> Program:
        """Start it, at first or again."""
        argv = [BIN / "harvester-edge", "relay", "--config", self.site_file, "--heartbeat", "2s"]
        relay = self.start(argv, "relay")
        until(
            lambda: _last(relay.log, "relay_started") > _last(relay.log, "relay_stopped"),
            20,
            "it starts",
        )
        time.sleep(0.3)
        return relay


def _last(log: Path, event: str) -> int:
    return log.read_bytes().rfind(event.encode())


@pytest.fixture(params=["relay", "spool"])
def rig(request: pytest.FixtureRequest) -> Iterator[Relayed]:
    with Relayed(request.param, prefetch=20) as one:  # enough for seconds without a dispatcher
        yield one


def all_once(rig: Rig, ids: tuple[int, ...]) -> None:
    states = Counter(rig.client.wait(ids, timeout_s=60).states.values())
    assert states == {JobState.FINISHED: len(ids)}
    for one in ids:
        attempts = [a for a in rig.client.show(one).attempts if a.state != "released"]
        assert len(attempts) == 1, attempts


def test_r3_jobs_run_on_while_the_dispatcher_is_away_and_the_relay_is_killed(rig):
    relay = rig.relay()
    rig.start_edge()
    ids = rig.client.submit([null_job(nr, command="sleep 0.3") for nr in range(60)]).job_ids
    rig.warm(2)
    until(
        lambda: any(rig.client.show(one).row.state is JobState.FINISHED for one in ids[:20]),
        20,
        "one ends",
    )
    rig.dispatcher.signal(signal.SIGSTOP)
    time.sleep(1)
    marks = rig.directory / "state/workers"
    before = _ended(marks)
    for _ in range(2):
        time.sleep(1.5)
        relay.kill()
        relay = rig.relay()
    until(lambda: _ended(marks) > before, 20, "pilots end jobs without a dispatcher")
    rig.dispatcher.signal(signal.SIGCONT)
    all_once(rig, ids)
    assert relay.alive


def _ended(workers: Path) -> int:
    return sum(log.read_bytes().count(b"job_ended") for log in workers.glob("*/*/stderr"))


def test_pilots_come_and_go_by_the_relay(rig):
    """Their registration, their end, and the edge's view of both; no process stays."""
    rig.relay()
    edge = rig.start_edge()
    ids = rig.client.submit([null_job(nr) for nr in range(10)]).job_ids
    all_once(rig, ids)
    workers = rig.workers()
    assert {one.site for one in workers} == {SITE}
    for pid in rig.pilots():
        os.kill(pid, signal.SIGTERM)
    until(lambda: not rig.pilots(), 30, "they leave")
    until(
        lambda: not {one.worker_id for one in rig.workers()} & {one.worker_id for one in workers},
        30,
        "it is known",
    )
    assert edge.alive


def test_a_relay_is_known_by_its_certificate_only():
    with Relayed() as rig:
        rig.relay()
        done = subprocess.run(
            [BIN / "pilot", "--url", f"https://{rig.address}", "--queue", QUEUE, "--site", rig.site_file,
             "--token-file", rig.pilot_token, "-a", rig.directory / "work", "--patience", "1",
             "--pin", "0" * 64],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 71
        assert "ingerprint" in done.stderr


def test_a_spool_holds_no_half_file_and_nothing_stays_in_it():
    with Relayed("spool") as rig:
        relay = rig.relay()
        rig.start_edge()
        ids = rig.client.submit([null_job(nr, command="sleep 0.2") for nr in range(20)]).job_ids
        for _ in range(3):
            time.sleep(1)
            relay.kill()
            relay = rig.relay()
        all_once(rig, ids)
        for pid in rig.pilots():
            os.kill(pid, signal.SIGTERM)
        until(lambda: not rig.pilots(), 30, "they leave")
        spool = rig.directory / "state/relay-spool"
        assert spool.stat().st_mode & 0o077 == 0
        until(
            lambda: not [one for one in spool.glob("*/*/*") if one.parts[-3] == "ask"],
            10,
            "all is answered",
        )


def test_credentials_of_users_come_by_the_relay_and_lie_nowhere_on_the_way(rig):
    rig.relay()
    rig.start_edge()
    secret = token(time.time() + 3600)
    ask = m.NewCredential(name="t", secret=secret)
    rig.client.call("keep_credential", ask, answer=m.CredentialRow)
    seen: set[bytes] = set()
    spool = rig.directory / "state/relay-spool"
    uses = (CredentialUse(name="t", payload=True),)
    jobs = [
        null_job(nr, command="sha256sum < $BEARER_TOKEN_FILE; sleep 1", credentials=uses)
        for nr in range(4)
    ]
    ids = rig.client.submit(jobs).job_ids
    while not FINAL.issuperset(rig.client.wait(ids, timeout_s=0).states.values()):
        for path in spool.glob("*/*/*"):
            with suppress(FileNotFoundError):
                seen.add(path.read_bytes())
    all_once(rig, ids)
    for one in ids:
        until(lambda one=one: rig.client.log(one).text, 10, "the relay passes logs on")
        assert rig.client.log(one).text.split()[0] == hashlib.sha256(secret.encode()).hexdigest()
    if rig.network == "spool":
        assert any(b"sealed" in text for text in seen)
    seen |= {path.read_bytes() for path in rig.directory.rglob("*") if path.is_file()}
    assert not [text[:200] for text in seen if secret.rpartition(".")[2].encode() in text]


@pytest.fixture
def island(need: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """A network namespace whose only neighbour is an address of ours; its name, and that
    address."""
    if os.getuid() != 0:
        pytest.skip("makes a network namespace, as root")
    need("ip", package="iproute2")
    name, here, there = f"ail{os.getpid()}", "10.231.77.1", "10.231.77.2"
    side = name[:10]
    make = [
        ["ip", "netns", "add", name],
        [
            "ip",
            "link",
            "add",
            f"{side}h",
            "type",
            "veth",
            "peer",
            "name",
            f"{side}n",
            "netns",
            name,
        ],
        ["ip", "addr", "add", f"{here}/30", "dev", f"{side}h"],
        ["ip", "link", "set", f"{side}h", "up"],
        ["ip", "-n", name, "addr", "add", f"{there}/30", "dev", f"{side}n"],
        ["ip", "-n", name, "link", "set", f"{side}n", "up"],
        ["ip", "-n", name, "link", "set", "lo", "up"],
    ]
    try:
        for line in make:
            subprocess.run(line, check=True, capture_output=True)
        yield name, here
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", f"{side}h"], check=False, capture_output=True)


LOOK = """
for target in {relay} {dispatcher} 127.0.0.1:{port} 169.254.169.254:80; do
    timeout 2 bash -c "exec 3<>/dev/tcp/${{target%:*}}/${{target##*:}}" 2>/dev/null && echo "reached $target"
done
echo looked
"""


def test_p9_a_node_with_a_way_to_the_relay_only_works_and_its_payloads_reach_nothing(island):
    namespace, here = island
    with Relayed(host=here) as rig:
        rig.relay()
        look = LOOK.format(relay=rig.address, dispatcher=f"127.0.0.1:{rig.port}", port=rig.port)
        wrap = ["ip", "netns", "exec", namespace]
        direct = subprocess.run(
            [*wrap, BIN / "pilot", "--url", rig.url, "--queue", QUEUE, "--site", rig.site_file,
             "--token-file", rig.pilot_token, "-a", rig.directory / "work", "--patience", "1"],
            check=False, capture_output=True, timeout=60,
        )  # fmt: skip
        assert direct.returncode == 71  # nobody but the relay can be reached from there
        known = pin(rig.directory / "state/relay")
        pilot = rig.start(
            [*wrap, BIN / "pilot", "--url", f"https://{rig.address}", "--pin", known, "--queue", QUEUE,
             "--site", rig.site_file, "--token-file", rig.pilot_token, "-a", rig.directory / "work",
             "--max-jobs", "2"],
            "pilot",
        )  # fmt: skip
        boxed = rig.client.submit([null_job(1, command=look)]).job_ids[0]
        networked = rig.client.submit([null_job(2, command=look, network=True)]).job_ids[0]
        all_once(rig, (boxed, networked))
        assert pilot.process.wait(30) == 0
        for job in (boxed, networked):
            until(lambda job=job: rig.client.log(job).text, 10, "the relay passes logs on")
        assert rig.client.log(boxed).text == "looked\n"
        # with the node's network a payload can knock at the relay, as any process there; it has no
        # token
        assert rig.client.log(networked).text == f"reached {rig.address}\nlooked\n"
