"""mpi4py.futures beside ours: `python -m mpi4py.futures mpi_futures.py FILE`, with a list of argv
in FILE. Writes FILE.done: how many seconds they took, as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from mpi4py.futures import MPIPoolExecutor  # type: ignore[import-not-found]


def work(argv: list[str]) -> int:
    """One task."""
    pid = os.posix_spawn(argv[0], argv, {})
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    file = Path(sys.argv[1])
    tasks = [argv for argv, _, _ in json.loads(file.read_text(encoding="utf-8"))]
    with MPIPoolExecutor() as pool:
        pool.bootup(wait=True)
        list(pool.map(work, [["/bin/true"]] * 24))
        began = time.perf_counter()
        failed = sum(pool.map(work, tasks))
        took = time.perf_counter() - began
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"seconds": took, "failed": failed}))
    draft.rename(f"{file}.done")
