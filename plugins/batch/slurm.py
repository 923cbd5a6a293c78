"""Slurm 20.11 or later: an order is one job array, named by its tag; worker `index` is its task.

The listing is `squeue -t all`, so what ended in the last minutes (MinJobAge, 300 s) is in it; what
has left it is looked up with sacct, where the site keeps accounts. Free text is never read for a
fact: sbatch's answer is one line of a known form, or nobody knows.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import (
    MAX_NODES,
    Accepted,
    Batch,
    BatchError,
    BatchId,
    Order,
    Rejected,
    Sighting,
    Tag,
    Unclear,
    nodes_of,
    renamed_job,
)
from plugins.batch.commands import (
    CommandMissing,
    Ran,
    Run,
    batches_of_500,
    hms,
    is_refusal,
    options_of_slot,
    output_of,
    runner,
    tasks,
    with_last_words,
)
from plugins.batch.pass_through import Grammar, behind, check, check_prefix, shells

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:,&|()\[\]*=+@%/-]*(?!\n)$", max_length=500)]


LONG_S = 30 * 86400.0
# The controller's clock may be another.
SLACK_MIN, DAY_MIN = 60, 1440

_FOUND = "the edge finds its workers by it"
_FILES = "a worker's files lie in its own directory"
_SLOT = "the slot says it"
_NOTHING = "nothing would be submitted"
_NUMBER = "the edge reads the job's number from what sbatch prints"
SBATCH = Grammar(
    own={
        **dict.fromkeys(("--job-name", "-J", "--array", "-a"), _FOUND),
        **dict.fromkeys(("--clusters", "-M"), "`options.cluster` says it, to all commands"),
        **dict.fromkeys(("--uid", "--gid"), "the edge lists its own user's jobs"),
        **dict.fromkeys(("--parsable", "--quiet", "-Q"), _NUMBER),
        **dict.fromkeys(("--wait", "-W"), "sbatch would not return before the workers have ended"),
        **dict.fromkeys(("--output", "-o", "--error", "-e", "--input", "-i"), _FILES),
        **dict.fromkeys(("--chdir", "-D", "--open-mode"), _FILES),
        **dict.fromkeys(("--test-only", "--help", "-h", "--usage", "--version", "-V"), _NOTHING),
        "--export AILURUS_INDEX": "it is a worker's number",
        "--wrap": "it replaces the script",
        **dict.fromkeys(("--nodes", "-N", "--ntasks", "-n", "--cpus-per-task", "-c"), _SLOT),
        **dict.fromkeys(("--time", "-t"), _SLOT),
    },
    flags=frozenset({
        "--contiguous", "--exclusive", "--get-user-env", "--help", "--hold", "--immediate",
        "--kill-on-bad-exit", "--nice", "--no-kill", "--no-requeue", "--overcommit", "--oversubscribe",
        "--parsable", "--propagate", "--quiet", "--reboot", "--requeue", "--share", "--spread-job",
        "--test-only", "--usage", "--use-min-nodes", "--verbose", "--version", "--wait", "--ignore-pbs",
        "-h", "-H", "-I", "-k", "-O", "-Q", "-s", "-v", "-V", "-W",
    }),
)  # fmt: skip
"""What `options.submit` may not say: https://slurm.schedmd.com/sbatch.html"""


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
    history: bool = True
    """False where nobody keeps accounts, or may ask them: what ended unseen then counts as lost."""
    submit: list[str] = []
    """Further arguments of sbatch, as they are, but for those by which workers are found."""
    prefix: list[str] = []
    """A command that runs the others, such as [ssh, login]."""

    def __post_init__(self) -> None:
        check(self.submit, SBATCH)
        check_prefix(self.prefix)


class Slurm(Batch):
    """The user's jobs in one cluster."""

    Options = SlurmOptions
    poll_s = 120.0
    settle_s = 120.0
    grace_s = 240.0
    index = '"${AILURUS_INDEX:-$SLURM_ARRAY_TASK_ID}"'
    most_nodes = MAX_NODES
    heads = True

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
        # Until sacct says that there are no accounts.
        self.history = options.history

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        script = order.directory / "script"
        try:
            script.write_text(order.script, "utf-8")
            if order.together > 1:
                (order.directory / "job").write_text(job(order), "utf-8")
            ran = self._command(*sbatch(self._chosen(order), order, tag))
        except OSError as error:
            return Rejected(f"{script}: {error.strerror}")
        except CommandMissing as error:
            return Rejected(str(error))
        except BatchError as error:
            return Unclear(str(error))
        if ran.code == 0 and (answer := _ID.fullmatch(ran.out)):
            ids = {n: BatchId(f"{answer[1]}_{n // order.together}") for n in range(order.count)}
            return Accepted(ids)
        if is_refusal(ran, _LOST, "sbatch:", remote=bool(shells(self._options.prefix))):
            return Rejected(ran.message)
        return Unclear(f"sbatch: exit code {ran.code}: {ran.message}")

    def trial(self, order: Order, tag: Tag) -> str:
        """Why Slurm would not take a worker of the order; nothing if it would. Submits nothing."""
        *argv, _ = sbatch(self._chosen(order), order, tag)
        ran = self._command(*argv, "--test-only", "--wrap=true")
        return ran.message if ran.code else ""

    def _chosen(self, order: Order) -> SlurmOptions:
        return options_of_slot(self._options, order)

    def listing(self) -> tuple[Sighting, ...]:
        return tuple(self._squeue())

    def find(
        self, tag: Tag, ids: Collection[BatchId] = (), age_s: float = LONG_S
    ) -> tuple[Sighting, ...]:
        past = [(one.batch_id, one) for one in self._sacct(tag, age_s)]
        found = {(batch_id, one.index): one for batch_id, one in past}
        queued = list(self._squeue(f"--name={tag}"))
        queued += self._renamed(tag, {*ids} - {one.batch_id for one in queued} - {*dict(past)})
        return tuple((found | {(one.batch_id, one.index): one for one in queued}).values())

    def _renamed(self, tag: Tag, ids: Collection[BatchId]) -> list[Sighting]:
        """Jobs of these ids, which nothing shows by the tag: somebody has given them another
        name."""
        if not (jobs := sorted({one.partition("_")[0] for one in ids})):
            return []
        try:
            found = self._squeue(f"--jobs={','.join(jobs)}", prefix="")
            return [
                renamed_job(one, tag) for one in found if one.batch_id in ids and one.tag != tag
            ]
        # It has just answered, so they are not there.
        except BatchError:
            return []

    def cancel(self, ids: Collection[BatchId]) -> None:
        for some in batches_of_500(sorted(ids)):
            self._answer("scancel", [*self._cluster(), *some])

    def _squeue(self, *which: str, prefix: str | None = None) -> Iterator[Sighting]:
        argv = ["--me", "--noheader", "--array", "--states=all", f"--format={_SQUEUE}", *which]
        out = self._answer("squeue", [*self._cluster(), *argv])
        return parse_squeue(out, self._prefix if prefix is None else prefix, self._root)

    def _sacct(self, tag: Tag, age_s: float) -> Iterator[Sighting]:
        """Ends only: what accounts call running and the queue does not have is over, and they have
        not heard of it yet, or never will (`sacctmgr show runawayjobs`). Asked so, they also tell
        of what was cancelled before it might have begun. They are asked from the order's own time
        on, since many a site (MaxQueryTimeRange) bounds the range; where that is too long, of the
        last day."""
        if not self.history:
            return iter(())
        minutes = math.ceil(age_s / 60) + SLACK_MIN
        try:
            out = self._sacct_text(tag, minutes)
        except BatchError as error:
            if "accounting storage is disabled" in str(error):
                self.history = False
                return iter(())
            if minutes <= DAY_MIN:
                raise
            out = self._sacct_text(tag, DAY_MIN)
        return parse_sacct(out, tag, self._root)

    def _sacct_text(self, tag: Tag, minutes: int) -> str:
        argv = ["--allocations", "--parsable2", "--noheader", f"--starttime=now-{minutes}minutes",
                "--endtime=now", f"--state={','.join(_ENDED)}", f"--format={_SACCT}",
                f"--name={tag}"]  # fmt: skip
        return self._answer("sacct", [*self._cluster(), *argv])

    def _cluster(self) -> list[str]:
        return [f"--clusters={self._options.cluster}"] if self._options.cluster else []

    def _answer(self, command: str, argv: list[str]) -> str:
        return output_of(command, self._command(command, *argv))

    def _command(self, *argv: str) -> Ran:
        return self._run(behind(self._options.prefix, argv))


# the commands ----------------------------------------------------------------------------------

_ID = re.compile(r"(\d+)(?:;[\w.-]+)?\n")
_LOST = re.compile(
    # By the texts of Slurm's error codes: the controller may have taken the job, and its word is
    # lost.
    r"Batch job submission failed: ([^:\n]*timed out|Unable to contact|[^:\n]*(connection|shutdown) failure|"
    r"Message (send|receive) failure|Zero Bytes|Insane message|Unexpected message|Header lengths|"
    r"Protocol authentication|Resource temporarily|Connection |Broken pipe|No route|Network is|"
    r"Slurm backup|[^:\n]*not respond)"
)
_SQUEUE = "%F|%K|%T|%r|%N|%j"
_SACCT = "JobID,State,ExitCode,NodeList"


def sbatch(options: SlurmOptions, order: Order, tag: Tag) -> list[str]:
    """One command for all workers of an order. `%` in a path would be a placeholder."""
    place = str(order.directory).replace("%", "%%")
    early = min(options.signal_before, order.walltime_s // 10)
    many = order.together > 1
    own = "job-%a." if many else "%a/"
    argv = [
        "sbatch", "--parsable", f"--job-name={tag}", f"--array=0-{order.allocations - 1}",
        f"--nodes={order.nodes}", f"--ntasks={order.nodes}", f"--cpus-per-task={order.cores}",
        f"--time={hms(order.walltime_s)}", "--no-requeue",
        f"--chdir={order.directory}", "--input=/dev/null", "--open-mode=append",
        f"--output={place}/{own}stdout", f"--error={place}/{own}stderr",
        "--export=ALL", "--propagate=NONE",
    ]  # fmt: skip
    # To the script, which is the pilot, or to the steps, which are.
    if early:
        argv.append(f"--signal={'' if many else 'B:'}USR1@{early}")
    if order.nodes > 1:
        # A lost node is one lost worker, or costs one what ran there.
        argv += ["--ntasks-per-node=1", "--no-kill"]
    if order.wait_s:
        argv.append(f"--deadline=now+{order.wait_s + order.walltime_s}")
    if options.memory:
        argv.append(f"--mem={order.memory_mb}M")
    if order.exclude_nodes:
        names = {host.split(".", 1)[0] for host in order.exclude_nodes}
        argv.append(f"--exclude={','.join(sorted(names))}")
    if order.gpus:
        argv.append(f"--gpus-per-node={order.gpus}")
    if options.exclusive:
        argv.append("--exclusive")
    places = ("partition", "account", "qos", "constraint", "reservation")
    argv += [f"--{name}={value}" for name in places if (value := getattr(options, name))]
    if options.cluster:
        argv.append(f"--clusters={options.cluster}")
    return [*argv, *options.submit, str(order.directory / ("job" if many else "script"))]


STEPS = 16
"""In about so many the pilots of an allocation start: a node that comes back before Slurm has missed
it ends those of its step."""


def job(order: Order) -> str:
    """Starts the script on each node of an allocation, and waits for all of them."""
    most = -(-order.nodes // STEPS)
    steps = [_step(order, first, most) for first in range(0, order.nodes, most)]
    started = "".join(f'{shlex.join(argv)} &\nsteps="$steps $!"\n' for argv in steps)
    # A signal is for the pilots, and they may take their time.
    return f"""#!/bin/sh
trap : TERM INT HUP
steps=
{started}code=0
for step in $steps; do
    wait "$step" || code=$?
    while kill -0 "$step" 2>/dev/null; do wait "$step" || code=$?; done
done
exit $code
"""


def _step(order: Order, first: int, most: int) -> list[str]:
    """Starts the script on `most` nodes of an allocation, from its `first` on."""
    nodes = min(most, order.nodes - first)
    place = shlex.quote(str(order.directory))
    index = f"SLURM_ARRAY_TASK_ID * {order.nodes} + {first} + SLURM_PROCID"
    node = (
        f"AILURUS_INDEX=$(({index})); export AILURUS_INDEX; "
        f'exec /bin/sh {place}/script > {place}/"$AILURUS_INDEX"/stdout 2> {place}/"$AILURUS_INDEX"/stderr'
    )
    return [
        "srun", f"--relative={first}", f"--nodes={nodes}", f"--ntasks={nodes}",
        "--ntasks-per-node=1", f"--cpus-per-task={order.cores}",
        # Leave what is allocated to the steps of payloads, too.
        "--overlap",
        # one that ends, or its node, leaves the others alone
        "--kill-on-bad-exit=0", "--wait=0", "--no-kill",
        "--input=none", "/bin/sh", "-c", node,
    ]  # fmt: skip


# what they answer ------------------------------------------------------------------------------

PHASE = {
    **dict.fromkeys(("PENDING", "REQUEUED", "REQUEUE_FED"), Phase.QUEUED),
    # Its nodes are being made.
    **dict.fromkeys(("CONFIGURING", "POWER_UP_NODE"), Phase.QUEUED),
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
    """Tasks of arrays whose name begins with the prefix; other lines are not about us. Raises
    BatchError for half a row: left out, it would be a worker that is gone."""
    for line in text.splitlines():
        fields = line.split("|", 5)
        if 1 < len(fields) < 6 and fields[0].isdecimal():
            raise BatchError(f"squeue: a row of {len(fields)} columns instead of 6: {line}")
        if len(fields) < 6 or not fields[5].startswith(prefix) or not fields[0].isdecimal():
            continue
        job, task, state, reason, nodes, name = fields
        for one in tasks(task):
            detail = "" if reason in USUAL else reason
            yield from _sightings(job, one, Tag(name), state, detail, nodes, root)


def parse_sacct(text: str, tag: Tag, root: Path) -> Iterator[Sighting]:
    """A state may say by whom: CANCELLED by 1000. Tasks that never began share a line: 1350_[4-9];
    or 1350, where they might not even have begun, which stands for all without a line of their
    own. Raises BatchError for half a row."""
    lines = [line.split("|") for line in text.splitlines()]
    if odd := [one for one in lines if 1 < len(one) != 4 and one[0][:1].isdecimal()]:
        raise BatchError(f"sacct: a row of {len(odd[0])} columns instead of 4: {'|'.join(odd[0])}")
    rows = [fields for fields in lines if len(fields) == 4]
    indices = [tasks(row[0].partition("_")[2].strip("[]")) for row in rows]
    for row, known in zip(rows, indices, strict=True):
        job, many, _ = row[0].partition("_")
        if not job.isdecimal():
            continue
        code = row[2].partition(":")
        how = f"killed by signal {code[2]}" if code[2] not in ("", "0") else f"exit code {code[0]}"
        for one in (
            known if many else sorted(_placed(tag, root) - {n for ns in indices for n in ns})
        ):
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
            detail = with_last_words(detail, root / tag / str(index))
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
