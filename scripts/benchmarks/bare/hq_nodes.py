"""HyperQueue on the nodes of an allocation of Slurm, by the interpreter of .venv-bench.

    hq_nodes.py server FILE CORES     FILE has a JSON list of [argv, cores, seconds]; writes
                                      FILE.done: how long they took
    hq_nodes.py worker DIR CORES      serves the server whose directory this is

The wheel has no command line: a worker of another node is one of an idle server of its own, whose
directory is made to name the real one. The end is taken from a last task that depends on all
others, since HyperQueue's client looks only once a second.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hyperqueue import Client, Job  # type: ignore[import-not-found]
from hyperqueue.ffi.cluster import Cluster  # type: ignore[import-not-found]
from hyperqueue.task.task import ResourceRequest  # type: ignore[import-not-found]

CURRENT = "hq-current"


def serve(directory: Path, cores: int) -> None:
    """Be a worker until the end."""
    own = Path(tempfile.mkdtemp())
    cluster = Cluster(str(own))
    (own / CURRENT).unlink()
    (own / CURRENT).symlink_to((directory / CURRENT).resolve())
    cluster.add_worker(cores)
    signal.pause()


def job_of(tasks: list[list[object]], last: Path) -> Job:
    """A job of these tasks, whose last one makes a file."""
    job = Job()
    all_of_them = [
        job.program(argv, stdout=None, stderr=None, resources=ResourceRequest(cpus=cores))
        for argv, cores, _ in tasks
    ]
    job.program(["/bin/touch", str(last)], deps=all_of_them, stdout=None, stderr=None)
    return job


def lead(file: Path, cores: int) -> None:
    """Start a server and workers, and run all tasks."""
    tasks = json.loads(file.read_text(encoding="utf-8"))
    directory = Path(f"{file}.hq")
    directory.mkdir()
    cluster = Cluster(str(directory))
    count = os.environ["SLURM_JOB_NUM_NODES"]
    step = ["srun", "--overlap", f"--ntasks={count}", "--ntasks-per-node=1"]
    worker = [sys.executable, __file__, "worker", str(directory), str(cores)]
    with subprocess.Popen([*step, *worker], stdin=subprocess.DEVNULL) as workers:
        client = Client(directory)
        warm = [[["/bin/sleep", "0.2"], 1, 0.2]] * (2 * cores * int(count))
        client.wait_for_jobs([client.submit(job_of(warm, Path(f"{file}.warm")))])
        last = Path(f"{file}.last")
        job = job_of(tasks, last)
        began = time.time()
        client.wait_for_jobs([client.submit(job)])
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({"seconds": last.stat().st_mtime - began}))
        draft.rename(f"{file}.done")
        workers.terminate()
    cluster.stop()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        lead(Path(sys.argv[2]), int(sys.argv[3]))
