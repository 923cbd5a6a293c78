"""One way to run payloads in an image, measured in a process of its own.

    python -m benchmarks.container_child bubblewrap|apptainer|exec|swarm|held|words IMAGE PAYLOADS

Prints a list of numbers, or the words that bwrap gets, as `scripts/benchmarks/container.py` reads
it; `held` a line, and then it waits to be killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

import plugins
from ailurus.protocol.job import JobSpec
from benchmarks.bare.boxed import cpu_s
from benchmarks.bare.pack import Task
from benchmarks.bare.pack import run as bare
from pilot.node.local import started_as
from pilot.ports import PATH, Container, ContainerSetup, ProcessEnd, Runtime, Sandbox
from pilot.process import spawner
from pilot.process.spawner import GuardedSpawner
from tests.rig.figure import ROOT

WIDTH = 12
TINY = 2000
APPTAINER = ROOT / "build/apptainer/bin"
LOOP = f"n=0; while [ $n -lt {TINY} ]; do /bin/busybox true; n=$((n+1)); done"
_TICK = os.sysconf("SC_CLK_TCK")


class Runs:
    """Payloads that a container starts through a guardian, as a pilot's."""

    def __init__(self, guarded: GuardedSpawner, directory: Path, image: Path, name: str) -> None:
        self._guarded = guarded
        self._directories = [directory / part for part in ("container", "work", "tmp")]
        for path in self._directories:
            path.mkdir()
        self._spec = JobSpec(name="bench", container=str(image))
        setup = ContainerSetup(
            directory=str(self._directories[0]),
            user="somebody",
            images=(str(image.parent),),
            apptainer=str(APPTAINER),
            spawner=guarded,
        )
        self._container: Container = plugins.load("container", name)(setup)

    def start(self, argv: Sequence[str], done: Callable[[ProcessEnd], None]) -> None:
        """Start one payload; its image is mounted for the first."""
        order = started_as(self.process(argv), "1.1")
        depth, status_fd = self._container.depth, self._container.status_fd
        self._guarded.spawn(replace(order, depth=depth, status_fd=status_fd), done)

    def words(self) -> list[str]:
        """What bwrap is told for a payload, with `ROOT` for where the image is mounted."""
        mounted = str(self._directories[0] / "image-1")
        words = self.process(["/bin/true"]).arguments.decode().split("\0")[:-1]
        return ["ROOT" if word == mounted else word for word in words]

    def process(self, argv: Sequence[str]) -> Runtime:
        """The container's own."""
        container = self._container
        own, work, tmp = map(str, self._directories)
        box = Sandbox(
            directory=work,
            tmp=tmp,
            environment={"PATH": PATH},
            memory_mb=100,
            image=container.prepare(self._spec, lambda: None),
            own=own,
        )
        process = container.wrap(argv, box)
        assert isinstance(process, Runtime)  # noqa: S101
        return process

    def timed(self, payloads: int, width: int, *argv: str) -> float:
        """Seconds for so many payloads, so many at once. Raises RuntimeError if one fails."""
        over, ends, left = threading.Event(), list[ProcessEnd](), [payloads]

        def begin() -> None:
            left[0] -= 1
            self.start(argv or ["/bin/true"], done)

        def done(ended: ProcessEnd) -> None:
            ends.append(ended)
            if left[0] > 0:
                begin()
            elif len(ends) == payloads:
                over.set()

        began = time.perf_counter()
        for _ in range(min(width, payloads)):
            begin()
        if not over.wait(240) or any(one.exit_code or one.errno for one in ends):
            raise RuntimeError(f"payloads failed: {ends[:3]}")
        return time.perf_counter() - began


def _guardian_s(guarded: GuardedSpawner) -> float:
    """CPU seconds of the guardians and of what they started and have seen end."""
    texts = [Path(f"/proc/{pid}/stat").read_text("utf-8") for pid in guarded.guardians()]
    ticks = (tick for text in texts for tick in text[text.rindex(")") + 2 :].split()[11:15])
    return sum(map(int, ticks)) / _TICK


def _exec(image: Path, payloads: int) -> list[float]:
    """Apptainer's command alone."""
    program = shutil.which("apptainer", path=f"{APPTAINER}:{PATH}")
    assert program is not None  # noqa: S101
    task = Task((program, "--silent", "exec", "--containall", "--pid", str(image), "/bin/true"))
    bare([task], 1)
    before = cpu_s()
    took = bare([task] * payloads, WIDTH)
    return [0.0, took, cpu_s() - before]


def _measured(way: str, image: Path, payloads: int) -> list[float] | list[str]:
    guarded = spawner.start()
    threading.Thread(target=guarded.listen, args=(lambda: None,), daemon=True).start()
    # Not removed here: others use the words that name it.
    directory = Path(tempfile.mkdtemp())
    runs = Runs(guarded, directory, image, "apptainer" if way == "apptainer" else "bubblewrap")
    first = runs.timed(1, 1)
    if way == "words":
        return runs.words()
    if way == "held":
        runs.start(["/bin/sleep", "600"], lambda _: None)
        print("runs", flush=True)
        signal.pause()
    if way == "swarm":
        bare([Task(("/bin/busybox", "sh", "-c", LOOP))], 1)
        host = bare([Task(("/bin/busybox", "sh", "-c", LOOP))], 1)
        return [runs.timed(1, 1, "/bin/sh", "-c", LOOP), host]
    runs.timed(WIDTH, WIDTH)
    before = cpu_s() + _guardian_s(guarded)
    took = runs.timed(payloads, WIDTH)
    spent = cpu_s() + _guardian_s(guarded) - before
    guarded.close()
    return [first, took, spent]


def main() -> None:
    way, image, payloads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    figures = _exec(image, payloads) if way == "exec" else _measured(way, image, payloads)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
