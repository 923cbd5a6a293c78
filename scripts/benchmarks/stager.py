"""A process that stages jobs' files by the pilot's own parts: what `data` measures as ours.

It reads orders as lines of JSON and answers each with the seconds and the CPU that it took; its
movers are children of it, as of a pilot, and live on from order to order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, cast

import msgspec

from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.messages import Assignment
from ailurus.wire.credentials import Trust
from pilot.attempt import Attempt
from pilot.files.stage import Stage
from pilot.options import Options
from pilot.ports import JobError
from pilot.process import spawner
from pilot.site import Site
from pilot.start import stage_of
from pilot.workdir import Workdir


class Took(NamedTuple):
    """Of one order."""

    seconds: float
    cpu_s: float
    """The pilot's own; its movers are other processes."""


class Stager:
    """The process, as a benchmark sees it."""

    def __init__(self, directory: Path, storage: dict[str, Any], ca: str = "") -> None:
        directory.mkdir()
        argv = [sys.executable, "-m", "benchmarks.stager", directory, json.dumps(storage), ca]
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [str(word) for word in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._orders = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def get(self, urls: Sequence[str], adler32s: Sequence[str], sizes: Sequence[int]) -> Took:
        """Stage files in."""
        inputs = [
            {"name": f"f{nr}", "url": url, "adler32": adler32, "size": size}
            for nr, (url, adler32, size) in enumerate(zip(urls, adler32s, sizes, strict=True))
        ]
        return self._asked({"inputs": inputs})

    def data_set(self, url: str) -> Took:
        """Stage all files of one URL in."""
        return self._asked({"inputs": [{"name": "set", "url": url}]})

    def put(self, files: Sequence[Path], directory: str) -> Took:
        """Stage files out to the directory at a URL."""
        return self._asked({"outputs": [str(file) for file in files], "directory": directory})

    def _asked(self, order: dict[str, Any]) -> Took:
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        answer = json.loads(self._answers.readline() or '{"error": "the stager ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return Took(**answer)


def main(directory: Path, storage: dict[str, Any], ca: str) -> None:
    """Do orders until there are no more."""
    started = spawner.start()
    threading.Thread(target=started.listen, args=(lambda: None,), daemon=True).start()
    site = msgspec.convert({"storage": storage}, Site)
    options = Options(url="", queue="", workdir=directory, trust=Trust(ca=ca))
    stage = stage_of(options, site, started, directory)
    for number, line in enumerate(sys.stdin, 1):
        try:
            answer = _done(stage, directory / f"{number}.1", number, json.loads(line))
        except JobError as error:
            sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        else:
            sys.stdout.write(json.dumps(answer._asdict()) + "\n")
        sys.stdout.flush()
    stage.close()
    started.close()


def _done(stage: Stage, directory: Path, number: int, order: dict[str, Any]) -> Took:
    spec = JobSpec(
        name="data",
        command="true",
        disk_mb=100_000,
        inputs=tuple(InputFile(**one) for one in order.get("inputs", ())),
        outputs=tuple(
            OutputFile(name=Path(path).name, url=order["directory"])
            for path in order.get("outputs", ())
        ),
    )
    given = Assignment(job_id=number, attempt_nr=1, report_key="k", spec=spec)
    attempt = Attempt(given, lambda attempt: None)
    with Workdir(directory) as work:
        work.make()
        for path in order.get("outputs", ()):
            os.link(path, work.directory / Path(path).name)
        stage.allowed(attempt)
        moves: Callable[[Attempt, Workdir], object] = (
            stage.stage_out if spec.outputs else stage.stage_in
        )
        began, cpu_s = time.perf_counter(), time.process_time()
        moves(attempt, work)
        return Took(time.perf_counter() - began, time.process_time() - cpu_s)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
