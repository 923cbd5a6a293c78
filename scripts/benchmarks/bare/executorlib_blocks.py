"""executorlib beside ours, by the interpreter of .venv-bench: `executorlib_blocks.py FILE WORKERS`,
with a list of argv in FILE. Writes FILE.done: how many seconds they took, as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from executorlib import SlurmJobExecutor  # type: ignore[import-not-found]


def work(argv: list[str]) -> int:
    """One task."""
    pid = os.posix_spawn(argv[0], argv, {})
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    file, workers = Path(sys.argv[1]), int(sys.argv[2])
    tasks = [argv for argv, _, _ in json.loads(file.read_text(encoding="utf-8"))]
    with SlurmJobExecutor(max_workers=workers, block_allocation=True) as pool:
        # Until all workers have begun.
        warm = [pool.submit(work, ["/bin/sleep", "0.5"]) for _ in range(2 * workers)]
        for one in warm:
            one.result()
        began = time.perf_counter()
        failed = sum(one.result() for one in [pool.submit(work, argv) for argv in tasks])
        took = time.perf_counter() - began
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({"seconds": took, "failed": failed}))
        draft.rename(f"{file}.done")
