"""No secret is anywhere but where it belongs, while real programs run and after (T6, P2).

A proxy between the programs keeps what they say, so every token and report key of the run is known:
each is then looked for in all that the run leaves and in all that its processes show.
"""

from __future__ import annotations

import http.client
import re
import secrets
import sqlite3
import stat
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import CredentialUse
from tests.dispatcher.helpers import token
from tests.rig import proc
from tests.rig.programs import Rig, null_job
from tests.rig.proxy import Proxy
from tests.rig.settled import SITE, settled

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(120)]

JWT = re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]+")
KEY = re.compile(rb'"report_key":"([\x21\x23-\x7e]{20,})"')
S3_SECRET = secrets.token_hex(20)
LOOK = "env; cat /proc/*/environ /proc/*/cmdline; ls -laR / ..; find / -name '*token*' -exec cat {} +; "


class Watch:
    """Argument lists and environments of all processes of a run, looked at again and again."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
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
        while not self._stop.wait(0.02):
            self.seen |= {proc.words(pid) for pid in proc.marked(self._mark)}


def own_files(rig: Rig) -> Iterator[Path]:
    """Where secrets belong: files for one reader, which only the programs themselves open."""
    yield from (rig.admin_token, rig.edge_token, rig.pilot_token)
    yield rig.store.with_suffix(".keys.json")


def texts(rig: Rig) -> Iterator[tuple[str, bytes]]:
    """All that the run has left, archives unpacked."""
    own = set(own_files(rig))
    for path in rig.directory.rglob("*"):
        if path.is_file() and path not in own:
            yield str(path), path.read_bytes()
            if path.suffix in (".tgz", ".gz"):
                with tarfile.open(path) as archive:
                    for member in archive:
                        if file := archive.extractfile(member):
                            yield f"{path}:{member.name}", file.read()
    store = sqlite3.connect(f"file:{rig.store}?mode=ro", uri=True)
    yield "the dump of the store", "\n".join(store.iterdump()).encode()
    store.close()


def answers(rig: Rig, job_ids: tuple[int, ...]) -> Iterator[tuple[str, bytes]]:
    """What anybody is shown: lists, jobs, logs, events, pages."""
    from ailurus.protocol.api import EventsQuery

    client, encode = rig.client, msgspec.json.encode
    yield "overview", encode(client.overview())
    yield "jobs", encode(client.jobs())
    yield "workers", encode(rig.workers())
    yield "events", encode(client.call("events", EventsQuery(limit=1000), answer=m.Events))
    for job_id in job_ids:
        yield f"job {job_id}", encode(client.show(job_id))
        yield f"log of job {job_id}", encode(client.log(job_id))
    for page in ("/console/", "/api/ailurus/v1/openapi.json", "/healthz"):
        connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=5)
        connection.request("GET", page)
        yield page, connection.getresponse().read()
        connection.close()


def test_t6_p2_no_token_and_no_key_leaves_its_place():
    with Rig(heartbeat_s=0.5, serve=("--log-level", "debug"), **SITE) as rig:
        with Proxy(rig.port, keep=True) as proxy, Watch(rig.mark) as watch:
            rig.through(proxy.url)
            delegated = token(time.time() + 3600)
            ask = m.NewCredential(name="storage", secret=delegated)
            rig.client.call("keep_credential", ask, answer=m.CredentialRow)
            keys = f"[default]\naws_access_key_id = AK\naws_secret_access_key = {S3_SECRET}\n"
            ask = m.NewCredential(name="bucket", secret=keys)
            assert rig.client.call("keep_credential", ask, answer=m.CredentialRow).kind == "keys"
            mark = {
                "environment": {"AILURUS_RIG": rig.mark},
                "credentials": (CredentialUse(name="storage"), CredentialUse(name="bucket")),
            }
            job_ids = rig.client.submit(
                [
                    null_job(
                        1, command=LOOK + "echo > out.txt", outputs=[{"name": "out.txt"}], **mark
                    ),
                    null_job(2, command=LOOK + "exit 3", **mark),  # its log.tgz is kept
                    null_job(3, command=LOOK + "sleep 2", **mark),
                ]
            ).job_ids
            rig.start_edge()
            states = rig.client.wait(job_ids, 60).states
            shown = dict(answers(rig, job_ids))
            leftovers = settled(rig)
        said = b"\n".join(proxy.kept)
        known = {*JWT.findall(said), *KEY.findall(said)}
        known |= {path.read_bytes().strip() for path in own_files(rig) if "token" in path.name}
        known.add(
            msgspec.json.decode(rig.store.with_suffix(".keys.json").read_bytes())["secret"].encode()
        )
        known.add(S3_SECRET.encode())
        everywhere = [*texts(rig), *shown.items(), *(("a process", one) for one in watch.seen)]
        needles = {needle for secret in known for needle in (secret, secret.rpartition(b".")[2])}
        found = sorted(
            f"{name}: {needle[:12].decode()}…"
            for name, text in everywhere
            for needle in needles
            if needle in text
        )
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in own_files(rig)}

    assert list(states.values()) == ["finished", "failed", "finished"]
    assert leftovers == []
    # the scanner scans: tokens of a user, an edge, a worker and its bootstrap, a credential of the
    # user's, and keys of three reports
    assert len(known) >= 4 + 2 + 1 + 3
    assert delegated.encode() in known
    assert S3_SECRET.encode() in said
    assert any(b"out.txt" in one for one in watch.seen)
    assert any(name.endswith("tgz:stdout") or "tgz:" in name for name, _ in everywhere)
    assert found == []
    assert set(modes.values()) == {0o600}
