"""Payloads in one image, 12 at once: by bubblewrap beside the bare loop on a mounted SIF, by
Apptainer beside its own command; the first payload of an image; what a killed pilot leaves."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.container_child import APPTAINER, TINY, WIDTH
from pilot.ports import PATH
from plugins.container.bubblewrap import candidates
from plugins.container.images import located
from tests.rig.figure import ROOT, Figure, figure
from tests.rig.proc import processes
from tests.rig.waiting import until

PAYLOADS = {"bubblewrap": 600, "apptainer": 36}
ROUNDS = 3
NOBODY = 65534


def run(args: Namespace) -> Iterator[Figure]:
    """As this user, and as an ordinary one where this is root."""
    with tempfile.TemporaryDirectory(prefix="ailurus-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        image = directory / "image.sif"
        subprocess.run([ROOT / "containers/busybox", image], check=True, stdout=subprocess.DEVNULL)
        image.chmod(0o644)
        for user in (0, NOBODY) if os.geteuid() == 0 else (os.geteuid(),):
            own = directory / str(user)
            own.mkdir()
            os.chown(own, user, user)
            yield from _as_user(Bench(image, own, user))


class Bench:
    """Processes of one user that measure: each way has its own, which is forked small."""

    def __init__(self, image: Path, own: Path, user: int) -> None:
        self.image, self.own, self.user = image, own, user
        self.name = "root" if user == 0 else "user"

    def _options(self) -> dict[str, Any]:
        if self.user == os.geteuid():
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}

    def start(self, module: str, *words: object) -> subprocess.Popen[str]:
        """A process that measures, in its own directory."""
        path = f"{PATH}:{os.environ['PATH']}"
        return subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": path, "TMPDIR": str(self.own), "HOME": str(self.own)},
            cwd=ROOT / "scripts",
            **self._options(),
        )

    def measured(self, module: str, *words: object) -> Any:
        """What such a process prints."""
        process = self.start(module, *words)
        out, _ = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(f"{module} {words[0]} ended with {process.returncode}")
        return json.loads(out)


def _as_user(bench: Bench) -> Iterator[Figure]:
    offset, bwrap = located(str(bench.image), [str(bench.image.parent)]).offset, next(candidates())
    payloads = PAYLOADS["bubblewrap"]
    bare = ("bare.boxed", bench.image, offset, bwrap, payloads, WIDTH)
    words = bench.measured("container_child", "words", bench.image, 1)
    ours, theirs, same = [], [], []
    for _ in range(ROUNDS):
        theirs.append(bench.measured(*bare))
        ours.append(bench.measured("container_child", "bubblewrap", bench.image, payloads))
        same.append(bench.measured(*bare, *words))
    mine, peer, alike = map(_medians, (ours, theirs, same))
    rate = payloads / mine[1]
    where = f"container, {bench.name}"
    note = "peer: bwrap on a mounted SIF"
    yield figure(f"{where}: 12 at once by bubblewrap", rate, "/s", peer=payloads / peer[1],
                 at_least=0.85, note=note)  # fmt: skip
    yield figure(f"{where}: the same, CPU more a payload",
                 1000 * (mine[2] - peer[2]) / payloads, "ms", at_most=1.5, note=note)  # fmt: skip
    yield figure(f"{where}: the same", rate, "/s", peer=payloads / alike[1],
                 note="peer: bwrap with the words of ours")  # fmt: skip
    yield figure(f"{where}: the same, CPU", 1000 * mine[2] / payloads, "ms",
                 peer=1000 * peer[2] / payloads)  # fmt: skip
    yield figure(f"{where}: the first payload of an image", 1000 * mine[0], "ms",
                 peer=1000 * peer[0], at_most=1.5, note="peer: squashfuse + bwrap")  # fmt: skip
    tiny, host = bench.measured("container_child", "swarm", bench.image, WIDTH)
    yield figure(f"{where}: a loop of {TINY:,} in one payload", TINY / tiny, "/s",
                 peer=TINY / host, at_least=0.85, note="peer: no container")  # fmt: skip
    yield figure(f"{where}: mounts and processes of a killed pilot", _left(bench), at_most=0)
    yield from _by_apptainer(bench, rate)


def _by_apptainer(bench: Bench, rate: float) -> Iterator[Figure]:
    payloads = PAYLOADS["apptainer"]
    if not shutil.which("apptainer", path=f"{APPTAINER}:{os.environ['PATH']}"):
        sys.stderr.write("no Apptainer: scripts/setup --apptainer brings it\n")
        return
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(bench.measured("container_child", "exec", bench.image, payloads))
        ours.append(bench.measured("container_child", "apptainer", bench.image, payloads))
    mine, peer = map(_medians, (ours, theirs))
    where = f"container, {bench.name}"
    yield figure(f"{where}: 12 at once by bubblewrap", rate, "/s", peer=payloads / peer[1],
                 at_least=12, note="peer: apptainer exec")  # fmt: skip
    yield figure(f"{where}: by Apptainer, CPU a payload", 1000 * mine[2] / payloads, "ms",
                 peer=1000 * peer[2] / payloads, at_most=1.05,
                 note="peer: apptainer exec")  # fmt: skip


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def _left(bench: Bench) -> int:
    """Kill a pilot that has payloads in an image; how much of it there is a little later."""
    process = bench.start("container_child", "held", bench.image, 1)
    assert process.stdout is not None  # noqa: S101
    process.stdout.readline()
    if not _of(bench.own):
        raise RuntimeError("nothing runs in an image")
    process.kill()
    process.wait()
    process.stdout.close()
    with suppress(TimeoutError):
        until(lambda: not _of(bench.own), 10)
    return len(_of(bench.own))


def _of(directory: Path) -> list[Path]:
    """What in /proc names `directory`: mounts, in any namespace, and processes."""
    found = []
    for pid in processes():
        for path in (Path(f"/proc/{pid}/{name}") for name in ("mounts", "cmdline")):
            with suppress(OSError):
                if str(directory).encode() in path.read_bytes():
                    found.append(path)
    return found
