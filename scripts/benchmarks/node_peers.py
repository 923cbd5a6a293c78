"""Others that run payloads on the nodes of a Slurm allocation, measured beside ours."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bare.pack import Task
from tests.rig.figure import ROOT
from tests.rig.heads import CORES, Heads
from tests.rig.waiting import until

BARE = Path(__file__).parent / "bare"
MPI = ROOT / ".venv-openmpi" / "bin"
BENCH = ROOT / ".venv-bench" / "bin"


class Peers:
    """Each in an allocation of its own, of all nodes."""

    def __init__(self, site: Heads) -> None:
        self._site = site
        self._slots = CORES * len(site.nodes.names)

    def bare(
        self,
        tasks: Sequence[Task],
        order: str = "fifo",
        *,
        dead_s: float = 0.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """By a bare head with agents. `dead_s`: a silent agent is given up after that; 0: none is.
        `meanwhile` is called once it has been submitted."""
        argv = [sys.executable, "-S", "-E", BARE / "nodes.py", "head"]
        words = [CORES, order, *([dead_s] if dead_s else [])]
        return self._measured(tasks, lambda file: [*argv, file, *words], meanwhile=meanwhile)

    def mpi(self, tasks: Sequence[Task]) -> dict[str, Any] | None:
        """By mpi4py.futures, one worker a slot; None where it is not installed."""
        starter = [MPI / "mpirun", "--allow-run-as-root", "--oversubscribe", "-n", self._slots + 1]
        program = [MPI / "python", "-m", "mpi4py.futures", BARE / "mpi_futures.py"]
        return self._if_there(
            "mpi4py.futures", tasks, lambda file: [*starter, *program, file], ntasks=self._slots
        )

    def executorlib(self, tasks: Sequence[Task]) -> dict[str, Any] | None:
        """By executorlib, which keeps its workers, one a slot; None where it is not installed."""
        program = [BENCH / "python", BARE / "executorlib_blocks.py"]
        return self._if_there(
            "executorlib", tasks, lambda file: [*program, file, self._slots], ntasks=self._slots
        )

    def hyperqueue(self, tasks: Sequence[Task]) -> dict[str, Any] | None:
        """By HyperQueue with a worker on each node; None where it is not installed."""
        program = [BENCH / "python", BARE / "hq_nodes.py", "server"]
        return self._if_there("HyperQueue", tasks, lambda file: [*program, file, CORES])

    def _if_there(
        self,
        name: str,
        tasks: Sequence[Task],
        argv: Callable[[Path], list[object]],
        ntasks: int = 0,
    ) -> dict[str, Any] | None:
        program = Path(str(argv(Path())[0]))
        if not program.exists():
            sys.stderr.write(f"  {name}: there is no {program}\n")
            return None
        try:
            return self._measured(tasks, argv, ntasks=ntasks)
        except TimeoutError as error:
            sys.stderr.write(f"  {name}: {error}\n")
            return None

    def _measured(
        self,
        tasks: Sequence[Task],
        argv: Callable[[Path], list[object]],
        *,
        ntasks: int = 0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        site = self._site
        file = site.rig.directory / f"peer-{secrets.token_hex(4)}.json"
        file.write_text(json.dumps(tasks))
        script = Path(f"{file}.sh")
        words = " ".join(f"'{word}'" for word in argv(file))
        script.write_text(
            f"#!/bin/sh\nexport PATH={os.environ['PATH']} HOME={file.parent}\nexec {words}\n",
            encoding="utf-8",
        )
        options = ["--no-kill", f"--nodes={len(site.nodes.names)}", "--exclusive", "--time=5"]
        options += [f"--ntasks={ntasks}"] if ntasks else []
        site.slurm.run("sbatch", *options, f"--output={file}.log", script)
        done = Path(f"{file}.done")
        try:
            meanwhile()
            until(lambda: done.exists() or not site.jobs(), 60, "a peer ends")
            found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        except (TimeoutError, OSError):
            raise TimeoutError(Path(f"{file}.log").read_text(encoding="utf-8")[-800:]) from None
        finally:
            site.slurm.run("scancel", "--me")
            until(lambda: not site.jobs(), 30)
        return found
