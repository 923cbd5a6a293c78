"""H6: every parser of text that others write, driven by atheris: coverage chooses the bytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from benchmarks.parsers_cases import CASES
from tests.rig.figure import ROOT, Figure, figure

TOGETHER = 2
LONGEST = 4096  # bytes of a text
HANGS_S = 10


def run(args: Namespace) -> Iterator[Figure]:
    """Each parser in a process of its own, `--runs` in all."""
    (packages,) = (ROOT / ".venv-bench").glob("lib/python3*/site-packages")
    each = max(1, args.runs // len(CASES))
    with tempfile.TemporaryDirectory(prefix="ailurus-parsers-") as folder:
        waiting = [(name, Path(folder, f"{nr}")) for nr, name in enumerate(CASES)]
        running: list[tuple[str, Path, subprocess.Popen[bytes]]] = []
        done: list[tuple[str, Path, int]] = []
        while waiting or running:
            while waiting and len(running) < TOGETHER:
                name, place = waiting.pop(0)
                place.mkdir()
                running.append((name, place, _begun(name, place, packages, each, args)))
            name, place, process = running.pop(0)
            done.append((name, place, process.wait()))
        total = 0
        for name, place, code in done:
            text = (place / "log").read_text(errors="replace")
            runs = max(map(int, re.findall(r"^(?:#|Done )(\d+)", text, re.MULTILINE)), default=0)
            total += runs
            crash = f"ended with {code}: {text[-1500:]}" if code else ""
            yield figure(f"parsers: {name}, runs", runs, seed=args.seed, note=crash)
            yield figure(f"parsers: {name}, faults", int(code != 0), at_most=0, seed=args.seed)
        yield figure("parsers: runs in all", total, seed=args.seed)


def _begun(
    name: str, place: Path, packages: Path, runs: int, args: Namespace
) -> subprocess.Popen[bytes]:
    """One parser, given `runs` texts, or as many as there is time for."""
    corpus = place / "corpus"
    corpus.mkdir()
    seconds = int(args.seconds * TOGETHER / len(CASES))
    argv = [
        sys.executable, "-m", "benchmarks.parsers_child", name, corpus,
        f"-atheris_runs={runs}", f"-max_total_time={seconds}",
        f"-max_len={LONGEST}", f"-timeout={HANGS_S}", f"-seed={args.seed}", "-rss_limit_mb=2048",
        f"-artifact_prefix={place}/", "-print_final_stats=1",
    ]  # fmt: skip
    environment = {**os.environ, "ATHERIS": str(packages)}
    with (place / "log").open("wb") as log:
        return subprocess.Popen(
            [str(word) for word in argv],
            cwd=ROOT / "scripts",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
