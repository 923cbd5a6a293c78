"""What the demo is asked for. Any Python can say it, before anything is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHAT = "Real programs on this machine, from the submission of jobs to a picture."
BATCH = ("slurm", "htcondor")
"""Batch systems that can be started here."""
# Of one simulation: two to three seconds.
EVENTS = 10_000


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=WHAT)
    parser.add_argument(
        "--jobs", type=int, default=8, metavar="N", help="simulation jobs (default 8)"
    )
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help="events of each")
    parser.add_argument("--keep", action="store_true", help="leave it running at the end")
    parser.add_argument("--stop", action="store_true", help="end one that was left running")
    parser.add_argument(
        "--port", type=int, default=0, help="of the dispatcher (default: a free one)"
    )
    parser.add_argument(
        "--batch", choices=["local", *BATCH], default="local",
        help="where pilots run: processes of this machine, or a real batch system started for it",
    )  # fmt: skip
    parser.add_argument(
        "--data", choices=["files", "rucio"], default="files",
        help="where data are: files of this machine, or a real Rucio started for it, with XRootD, "
        "and payloads in an image",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, default=HERE.parents[1] / "demo-run", help="where all of it lies"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.jobs <= 5000:
        parser.error("--jobs: between 1 and 5000")
    options.dir = options.dir.resolve()
    return options


if __name__ == "__main__":
    read_options()
