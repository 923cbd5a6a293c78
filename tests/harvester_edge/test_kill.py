"""B3: kill -9 of the edge around the submission: nothing leaks, nothing runs twice, all is
adopted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harvester_edge.book import Book
from harvester_edge.site import Site
from plugins.batch.local import Local, LocalOptions
from tests.harvester_edge.standin import Standin

EDGE = [sys.executable, "-c", "from harvester_edge.cli import main; raise SystemExit(main())"]
AROUND_SUBMIT = [
    "edge.submitting",
    "local.spawned",
    "edge.submitted",
    *(
        pytest.param(point, marks=pytest.mark.slow)
        for point in (
            "edge.planned",
            "edge.tokens",
            "local.spawned:2",
            "edge.recorded",
            "edge.reported",
        )
    ),
]


@pytest.fixture
def place(tmp_path: Path, tree: dict[str, Any]) -> Any:
    """A site whose pilots are shell scripts, and the stand-in they answer to."""
    standin = Standin(tmp_path, jobs=2)
    tree["dispatcher"]["url"] = standin.url
    tree["pilot"]["program"] = str(standin.pilot)
    tree["backend"]["limits"] = {"poll": "1s", "settle": "1s", "grace": "1s"}
    tree["scaling"] |= {"max_total": 2, "max_queued": 2}
    (tmp_path / "site.yaml").write_bytes(msgspec.json.encode(tree))
    yield tmp_path, standin
    standin.close()


def edge(root: Path, verb: str = "tick", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGE, verb, "--config", str(root / "site.yaml")],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def settled(root: Path, standin: Standin) -> None:
    """Ticks until two pilots run and nothing is in doubt; then checks every promise."""
    for _ in range(30):
        done = edge(root)
        assert done.returncode == 0, done.stderr
        book = Book(root / "state" / "book.sqlite", read_only=True)
        live = book.live()
        book.close()
        if len(live) == 2 and all(worker.registered for worker in live):
            break
        time.sleep(0.3)
    else:
        pytest.fail(f"never settled: {live}")
    begun = standin.begun()
    assert len(begun) == 2, "as many pilots as jobs"
    assert len({(intent, index) for intent, index, _ in begun}) == 2, "none twice"
    assert {(one.intent, one.index) for one in live} == {one[:2] for one in begun}, "none unknown"
    for _, _, pid in begun:
        os.kill(pid, 0)


@pytest.mark.parametrize("point", AROUND_SUBMIT)
def test_b3_a_kill_at_a_point_around_the_submission(place, point):
    root, standin = place
    killed = edge(root, AILURUS_FAILPOINTS=point)
    assert killed.returncode == -signal.SIGKILL
    settled(root, standin)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(int(os.environ.get("AILURUS_KILLS", "12"))))
def test_b3_kills_at_random_times(place, seed):
    """The daemon, killed again and again at any instant. AILURUS_KILLS: how many seeds."""
    root, standin = place
    chance = random.Random(seed)
    for _ in range(3):
        daemon = subprocess.Popen(
            [*EDGE, "run", "--config", str(root / "site.yaml")], stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.2, 0.9))
        daemon.kill()
        daemon.wait()
    settled(root, standin)


def test_a_restarted_edge_adopts_its_pilots(place):
    root, standin = place
    settled(root, standin)
    for _ in range(2):
        daemon = subprocess.Popen(
            [*EDGE, "run", "--config", str(root / "site.yaml")], stderr=subprocess.PIPE, text=True
        )
        began = time.time()
        while not (alive := root / "state" / "alive").exists() or alive.stat().st_mtime < began:
            assert daemon.poll() is None
            time.sleep(0.05)  # until a cycle has ended
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=30)
        assert daemon.returncode == 0
        assert '"edge_started"' in said
        assert "workers_submitted" not in said
    assert len(standin.begun()) == 2
    for _, _, pid in standin.begun():
        os.kill(pid, 0)


def test_a_second_edge_refuses_and_names_the_first(place):
    root, _ = place
    first = subprocess.Popen(
        [*EDGE, "run", "--config", str(root / "site.yaml")], stderr=subprocess.PIPE, text=True
    )
    assert first.stderr is not None
    while "edge_started" not in first.stderr.readline():
        pass
    for verb in ("run", "tick"):
        second = edge(root, verb)
        assert second.returncode == 75
        assert f"process {first.pid}" in second.stderr
    first.terminate()
    first.communicate(timeout=30)
    assert edge(root).returncode == 0


def test_an_edge_of_the_same_site_elsewhere_is_refused_by_the_dispatcher(place, tree):
    root, _ = place
    assert edge(root).returncode == 0
    tree = msgspec.json.decode((root / "site.yaml").read_bytes())
    tree["paths"]["state"] = str(root / "another")
    (root / "site.yaml").write_bytes(msgspec.json.encode(tree))
    second = edge(root)
    assert second.returncode == 75
    assert "another edge" in second.stderr
    assert msgspec.convert(tree, Site).state == root / "another"
    assert Local(LocalOptions(), root / "another" / "workers", "a").listing() == ()
