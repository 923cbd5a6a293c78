"""Slurm 20.11 or later: an order is one job array, named by its tag; worker `index` is its task.

The listing is `squeue -t all`, so what ended in the last minutes (MinJobAge, 300 s) is in it; what has left
it is looked up with sacct, where the site keeps accounts. Free text is never read for a fact: sbatch's
answer is one line of a known form, or nobody knows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import (
    MOST_NODES,
    Accepted,
    BatchError,
    BatchId,
    Order,
    Rejected,
    Sighting,
    Tag,
    Unclear,
    nodes_of,
)
from plugins.batch.commands import (
    NotThere,
    Run,
    answer,
    because,
    hundreds,
    in_time,
    of_slot,
    runner,
    tasks,
)

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:,&|()\[\]*=+@%/-]*(?!\n)$", max_length=500)]


class SlurmOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`backend.options` of a site of kind `slurm`; a slot's `extra` changes them."""

    partition: Word = ""
    account: Word = ""
    qos: Word = ""
    constraint: Word = ""
    reservation: Word = ""
    cluster: Word = ""
    """At a site with several clusters: this one."""
    exclusive: bool = False
    memory: bool = True
    """Ask for memory; false where it comes with the cores."""
    signal_before: Annotated[int, Meta(ge=0, le=65535)] = 60
    """Seconds before the walltime at which the pilot is told to stop; at most a tenth of it."""
    submit: list[str] = []
    """Further arguments of sbatch, as they are."""
    prefix: list[str] = []
    """A command that runs the others, such as [ssh, login]."""


class Slurm:
    """The user's jobs in one cluster."""

    Options = SlurmOptions
    poll_s = 120.0
    settle_s = 120.0
    grace_s = 240.0
    index = '"${AILURUS_INDEX:-$SLURM_ARRAY_TASK_ID}"'
    most_nodes = MOST_NODES

    def __init__(
        self,
        options: SlurmOptions,
        root: Path,
        prefix: str,
        *,
        timeout_s: float = 60.0,
        run: Run | None = None,
    ) -> None:
        self._options, self._root, self._prefix = options, root, prefix
        settings = ("SLURM_CONF", "SLURM_JWT", "SLURM_CONF_SERVER")
        self._run = run or runner(timeout_s, settings)
        self._accounts = True  # until sacct says that there are none

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        script = order.place / "script"
        try:
            script.write_text(order.script)
            if order.nodes > 1:
                (order.place / "job").write_text(job(order))
            ran = self._run([*self._options.prefix, *sbatch(self._chosen(order), order, tag)])
        except OSError as error:
            return Rejected(f"{script}: {error.strerror}")
        except NotThere as error:
            return Rejected(str(error))
        except BatchError as error:
            return Unclear(str(error))
        if ran.code == 0 and (answer := _ID.fullmatch(ran.out)):
            ids = {n: BatchId(f"{answer[1]}_{n // order.nodes}") for n in range(order.count)}
            return Accepted(ids)
        if ran.code and not ran.out.strip() and _REFUSAL.search(ran.err):
            return Rejected(ran.said)
        return Unclear(f"sbatch: exit code {ran.code}: {ran.said}")

    def trial(self, order: Order, tag: Tag) -> str:
        """Why Slurm would not take a worker of the order; nothing if it would. Submits nothing."""
        *argv, _ = sbatch(self._chosen(order), order, tag)
        ran = self._run([*self._options.prefix, *argv, "--test-only", "--wrap=true"])
        return ran.said if ran.code else ""

    def _chosen(self, order: Order) -> SlurmOptions:
        return of_slot(self._options, order)

    def listing(self) -> tuple[Sighting, ...]:
        return tuple(self._squeue())

    def find(self, tag: Tag) -> tuple[Sighting, ...]:
        found = {(one.batch_id, one.index): one for one in self._sacct(tag)}
        queued = self._squeue(f"--name={tag}")
        return tuple((found | {(one.batch_id, one.index): one for one in queued}).values())

    def cancel(self, ids: Collection[BatchId]) -> None:
        for some in hundreds(sorted(ids)):
            self._answer("scancel", [*self._cluster(), *some])

    def _squeue(self, *which: str) -> Iterator[Sighting]:
        argv = ["--me", "--noheader", "--array", "--states=all", f"--format={_SQUEUE}", *which]
        out = self._answer("squeue", [*self._cluster(), *argv])
        return parse_squeue(out, self._prefix, self._root)

    def _sacct(self, tag: Tag) -> Iterator[Sighting]:
        """Ends only: what accounts call running and the queue does not have is over, and they have not
        heard of it yet, or never will (`sacctmgr show runawayjobs`). Asked so, they also tell of what was
        cancelled before it might have begun."""
        if not self._accounts:
            return iter(())
        argv = ["--allocations", "--parsable2", "--noheader", "--starttime=now-30days",
                "--endtime=now", f"--state={','.join(_ENDED)}", f"--format={_SACCT}",
                f"--name={tag}"]  # fmt: skip
        try:
            out = self._answer("sacct", [*self._cluster(), *argv])
        except BatchError as error:
            if "accounting storage is disabled" not in str(error):
                raise
            self._accounts = False
            return iter(())
        return parse_sacct(out, tag, self._root)

    def _cluster(self) -> list[str]:
        return [f"--clusters={self._options.cluster}"] if self._options.cluster else []

    def _answer(self, command: str, argv: list[str]) -> str:
        return answer(command, self._run([*self._options.prefix, command, *argv]))


# the commands ----------------------------------------------------------------------------------

_ID = re.compile(r"(\d+)(?:;[\w.-]+)?\n")
_REFUSAL = re.compile(
    # Of the controller, by the texts of its error codes: the job was looked at and not taken.
    r"Batch job submission failed: (Invalid |Requested (node|time|partition|reservation|operation)|"
    r"More processors|Node count specification|Job violates|Access/permission denied|"
    r"User's group not permitted|Required partition|Memory required|Pathname |Job size|"
    r"Requested GRES|The (number of|requested) |Reservation )"
    # Of sbatch itself, before it asked anybody.
    r"|sbatch: (error: (Invalid |Unable to open file|This does not look like)|unrecognized option"
    r"|option requires|invalid option)"
)
_SQUEUE = "%F|%K|%T|%r|%N|%j"
_SACCT = "JobID,State,ExitCode,NodeList"


def sbatch(options: SlurmOptions, order: Order, tag: Tag) -> list[str]:
    """One command for all workers of an order. `%` in a path would be a placeholder."""
    place = str(order.place).replace("%", "%%")
    early = min(options.signal_before, order.walltime_s // 10)
    many = order.nodes > 1
    own = "job-%a." if many else "%a/"
    argv = [
        "sbatch", "--parsable", f"--job-name={tag}", f"--array=0-{order.count // order.nodes - 1}",
        f"--nodes={order.nodes}", f"--ntasks={order.nodes}", f"--cpus-per-task={order.cores}",
        f"--time={in_time(order.walltime_s)}", "--no-requeue",
        f"--chdir={order.place}", "--input=/dev/null", "--open-mode=append",
        f"--output={place}/{own}stdout", f"--error={place}/{own}stderr",
        "--export=ALL", "--propagate=NONE",
    ]  # fmt: skip
    if early:  # to the script, which is the pilot, or to the steps, which are
        argv.append(f"--signal={'' if many else 'B:'}USR1@{early}")
    if many:
        argv += ["--ntasks-per-node=1", "--no-kill"]  # a lost node is one lost worker
    if order.wait_s:
        argv.append(f"--deadline=now+{order.wait_s + order.walltime_s}")
    if options.memory:
        argv.append(f"--mem={order.memory_mb}M")
    if order.avoid:
        names = {host.split(".", 1)[0] for host in order.avoid}
        argv.append(f"--exclude={','.join(sorted(names))}")
    if order.gpus:
        argv.append(f"--gpus-per-node={order.gpus}")
    if options.exclusive:
        argv.append("--exclusive")
    places = ("partition", "account", "qos", "constraint", "reservation")
    argv += [f"--{name}={value}" for name in places if (value := getattr(options, name))]
    if options.cluster:
        argv.append(f"--clusters={options.cluster}")
    return [*argv, *options.submit, str(order.place / ("job" if many else "script"))]


def job(order: Order) -> str:
    """Starts the script on each node of an allocation, and waits for all of them."""
    place = shlex.quote(str(order.place))
    node = (
        f"AILURUS_INDEX=$((SLURM_ARRAY_TASK_ID * {order.nodes} + SLURM_PROCID)); export AILURUS_INDEX; "
        f'exec /bin/sh {place}/script > {place}/"$AILURUS_INDEX"/stdout 2> {place}/"$AILURUS_INDEX"/stderr'
    )
    argv = [
        "srun", f"--nodes={order.nodes}", f"--ntasks={order.nodes}", "--ntasks-per-node=1",
        f"--cpus-per-task={order.cores}",
        "--overlap",  # leave what is allocated to the steps of payloads, too
        # one that ends, or its node, leaves the others alone
        "--kill-on-bad-exit=0", "--wait=0", "--no-kill",
        "--input=none", "/bin/sh", "-c", node,
    ]  # fmt: skip
    return f"#!/bin/sh\nexec {shlex.join(argv)}\n"


# what they answer ------------------------------------------------------------------------------

PHASE = {
    **dict.fromkeys(("PENDING", "REQUEUED", "REQUEUE_FED"), Phase.QUEUED),
    **dict.fromkeys(("CONFIGURING", "POWER_UP_NODE"), Phase.QUEUED),  # its nodes are being made
    **dict.fromkeys(("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"), Phase.HELD),
    **dict.fromkeys(("SUSPENDED", "STOPPED"), Phase.HELD),
    **dict.fromkeys(("RUNNING", "RESIZING", "SIGNALING", "EXPEDITING"), Phase.STARTING),
    **dict.fromkeys(("COMPLETING", "STAGE_OUT", "UPDATE_DB"), Phase.DRAINING),
}
"""Where a state or flag puts a worker. https://slurm.schedmd.com/job_state_codes.html"""
ENDING = {
    "COMPLETED": Ending.DONE,
    **dict.fromkeys(("TIMEOUT", "DEADLINE"), Ending.WALLTIME),
    "PREEMPTED": Ending.PREEMPTED,
    **dict.fromkeys(("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL"), Ending.NODE_FAIL),
    "OUT_OF_MEMORY": Ending.OOM,
    **dict.fromkeys(("CANCELLED", "REVOKED"), Ending.CANCELLED),
    "FAILED": Ending.FAILED,
}
_ENDED = ("COMPLETED", "TIMEOUT", "DEADLINE", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY",
          "CANCELLED", "REVOKED", "FAILED")  # fmt: skip
"""Those that sacct takes as a base state."""
NEVER = frozenset({"DependencyNeverSatisfied", "PartitionConfig", "PartitionTimeLimit",
                   "PartitionNodeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS"})  # fmt: skip
"""Reasons of PENDING that time does not heal: somebody must do something."""
USUAL = frozenset({"", "None", "Priority", "Resources"})


def parse_squeue(text: str, prefix: str, root: Path) -> Iterator[Sighting]:
    """Tasks of arrays whose name begins with the prefix; other lines are not about us."""
    for line in text.splitlines():
        fields = line.split("|", 5)
        if len(fields) < 6 or not fields[5].startswith(prefix) or not fields[0].isdecimal():
            continue
        job, task, state, reason, nodes, name = fields
        for one in tasks(task):
            detail = "" if reason in USUAL else reason
            yield from _sightings(job, one, Tag(name), state, detail, nodes, root)


def parse_sacct(text: str, tag: Tag, root: Path) -> Iterator[Sighting]:
    """A state may say by whom: CANCELLED by 1000. Tasks that never began share a line: 1350_[4-9]; or
    1350, where they might not even have begun, which stands for all without a line of their own."""
    rows = [fields for line in text.splitlines() if len(fields := line.split("|")) == 4]
    told = [tasks(row[0].partition("_")[2].strip("[]")) for row in rows]
    for row, known in zip(rows, told, strict=True):
        job, many, _ = row[0].partition("_")
        if not job.isdecimal():
            continue
        code = row[2].partition(":")
        how = f"killed by signal {code[2]}" if code[2] not in ("", "0") else f"exit code {code[0]}"
        for one in known if many else sorted(_placed(tag, root) - {n for ns in told for n in ns}):
            yield from _sightings(job, one, tag, row[1].split(" ", 1)[0], how, row[3], root)


def _placed(tag: Tag, root: Path) -> set[int]:
    """The tasks of an order that was submitted from here, by the directories of its workers."""
    try:
        names = [one.name for one in (root / tag).iterdir()]
    except OSError:
        return set()
    return {int(name) // nodes_of(tag) for name in names if name.isdecimal()}


def _sightings(
    job: str, task: int, tag: Tag, state: str, detail: str, nodes: str, root: Path
) -> Iterator[Sighting]:
    """The workers of one task: one a node."""
    each = nodes_of(tag)
    for index in range(task * each, (task + 1) * each):
        batch_id = BatchId(f"{job}_{task}")
        yield _sighting(batch_id, index, tag, state, detail, nodes, root)


def _sighting(
    batch_id: BatchId, index: int, tag: Tag, state: str, detail: str, nodes: str, root: Path
) -> Sighting:
    phase = PHASE.get(state)
    ending = ENDING.get(state)
    if ending is not None:
        phase = Phase.ENDED
        where = f" on {nodes}" if nodes and " " not in nodes else ""
        detail = f"{state}: {detail}{where}" if detail else f"{state}{where}"
        if ending is Ending.FAILED:
            detail = because(detail, root / tag / str(index))
    elif phase is None:
        detail = f"Slurm's state {state} is not known here"
    elif phase is Phase.QUEUED and (detail in NEVER or "held" in detail.lower()):
        phase = Phase.HELD
    elif phase is Phase.HELD and state in ("SUSPENDED", "STOPPED"):
        detail = state.lower()
    elif phase in (Phase.STARTING, Phase.DRAINING):
        detail = ""
    return Sighting(
        batch_id=batch_id, tag=tag, index=index, phase=phase, ending=ending,
        detail=detail,
    )  # fmt: skip
