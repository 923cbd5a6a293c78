"""LSF: an order is one job array, named by its tag.

Array indices begin at 1, those of workers at 0.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from msgspec import Struct

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import (
    Accepted,
    Batch,
    BatchError,
    BatchId,
    Order,
    Rejected,
    Sighting,
    Tag,
    Unclear,
)
from plugins.batch.commands import (
    CommandMissing,
    Run,
    batches_of_500,
    is_refusal,
    output_of,
    runner,
)

PHASE = {
    "PEND": Phase.QUEUED,
    "PSUSP": Phase.HELD,
    "RUN": Phase.STARTING,
    "USUSP": Phase.HELD,
    "SSUSP": Phase.HELD,
}
ENDING = {"DONE": Ending.DONE, "EXIT": Ending.FAILED}
SUBMITTED = re.compile(r"Job <(\d+)> is submitted to .*queue <\S+>\.\n")
LOST = re.compile(r"LSF is down|communication|timed out|Connection", re.IGNORECASE)


class LSFOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    queue: str = "normal"


class LSF(Batch):
    Options = LSFOptions
    poll_s, settle_s, grace_s = 120.0, 120.0, 240.0
    index = '"$((LSB_JOBINDEX - 1))"'
    batch_id = '"$LSB_JOBID[$LSB_JOBINDEX]"'
    # `bjobs -a` forgets what ended before CLEAN_PERIOD.
    history = False

    def __init__(
        self,
        options: LSFOptions,
        root: Path,
        prefix: str,
        *,
        timeout_s: float = 60.0,
        run: Run | None = None,
    ) -> None:
        self._options, self._prefix = options, prefix
        self._run = run or runner(timeout_s, ("LSF_ENVDIR", "LSF_SERVERDIR"))

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        script = order.directory / "script"
        worker = f'{order.directory}/"$((LSB_JOBINDEX - 1))"'
        argv = [
            "bsub",
            "-J",
            f"{tag}[1-{order.count}]",
            "-q",
            self._options.queue,
            "-n",
            str(order.cores),
            "-M",
            f"{order.memory_mb}MB",
            "-W",
            str(order.walltime_s // 60),
            "-o",
            "/dev/null",
            f"sh {script} > {worker}/stdout 2> {worker}/stderr",
        ]
        try:
            script.write_text(order.script, "utf-8")
            ran = self._run(argv)
        except (OSError, CommandMissing) as error:
            return Rejected(str(error))
        except BatchError as error:
            return Unclear(str(error))
        if ran.code == 0 and (match := SUBMITTED.fullmatch(ran.out)):
            ids = {n: BatchId(f"{match[1]}[{n + 1}]") for n in range(order.count)}
            return Accepted(ids)
        if is_refusal(ran, LOST, "", remote=False):
            return Rejected(ran.message)
        return Unclear(ran.message)

    def listing(self) -> tuple[Sighting, ...]:
        return self._bjobs()

    def find(self, tag: Tag, ids: Collection[BatchId], age_s: float) -> tuple[Sighting, ...]:
        return self._bjobs("-J", tag)

    def cancel(self, ids: Collection[BatchId]) -> None:
        for some in batches_of_500(sorted(ids)):
            ran = self._run(["bkill", *some])
            if ran.code and "No matching job found" not in ran.err:
                raise BatchError(f"bkill: {ran.message}")

    def _bjobs(self, *which: str) -> tuple[Sighting, ...]:
        columns = "jobid jobindex stat job_name delimiter='|'"
        ran = self._run(["bjobs", "-a", "-noheader", "-o", columns, *which])
        if "No matching job found" in ran.err or "No job found" in ran.err:
            return ()
        rows = [line.split("|", 3) for line in output_of("bjobs", ran).splitlines()]
        # A row left out would be a worker that is gone.
        if odd := [row for row in rows if len(row) < 4]:
            raise BatchError(f"bjobs: a row of fewer than 4 columns: {odd[0]}")
        return tuple(self._sighting(*row) for row in rows if row[3].startswith(self._prefix))

    def _sighting(self, job: str, index: str, state: str, name: str) -> Sighting:
        if not index.isdecimal():
            raise BatchError(f"bjobs: job {job} of {name} has no array index, but {index!r}")
        ending = ENDING.get(state)
        return Sighting(
            batch_id=BatchId(f"{job}[{index}]"),
            tag=Tag(name.partition("[")[0]),
            index=int(index) - 1,
            phase=Phase.ENDED if ending else PHASE.get(state),
            ending=ending,
            detail="" if state in PHASE | ENDING else f"state {state}",
        )
