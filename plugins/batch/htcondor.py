"""HTCondor: an order is one cluster whose ads carry its tag; worker `index` is its process.

What has finished stays in the queue for some minutes (`leave_in_queue`), so the listing alone tells
how most workers ended; what was removed is in the history. A worker is never started twice: its
requirements refuse a second match, and one that was evicted is removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

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
    Ran,
    Run,
    batches_of_500,
    is_refusal,
    options_of_slot,
    output_of,
    runner,
    with_last_words,
)
from plugins.batch.pass_through import behind, check_prefix, shells

Line = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]*(?!\n)$", max_length=2000)]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:@<>?=&-]*(?!\n)$", max_length=500)]
KEPT_S = 900
"""How long a finished worker stays in the listing: longer than any poll."""


_FOUND = "the edge finds its workers by it"
_FILES = "a worker's files lie in its own directory"
_SLOT = "the slot says it"
_ONCE = "a worker is begun once, and stays in the queue for as long as the edge needs"
OWN = {
    **dict.fromkeys(("ailurustag", "queue", "clusterid", "procid"), _FOUND),
    **dict.fromkeys(("max_materialize", "max_idle", "materialize_max_idle"), _FOUND),
    **dict.fromkeys(("executable", "cmd", "universe", "jobuniverse"), "it starts something else"),
    **dict.fromkeys(("arguments", "args"), "it starts something else"),
    **dict.fromkeys(("environment", "env"), "it tells a worker its number; `getenv` may add to it"),
    **dict.fromkeys(("initialdir", "initial_dir", "job_iwd", "iwd"), _FILES),
    **dict.fromkeys(("output", "stdout", "out", "error", "stderr", "err"), _FILES),
    **dict.fromkeys(("should_transfer_files", "shouldtransferfiles", "copy_to_spool"), _FILES),
    **dict.fromkeys(("transfer_executable", "transferexecutable"), _FILES),
    "requirements": "`options.requirements` says it",
    **dict.fromkeys(("leave_in_queue", "leavejobinqueue", "periodic_remove"), _ONCE),
    **dict.fromkeys(("periodicremove", "on_exit_remove", "onexitremove"), _ONCE),
    **dict.fromkeys(("on_exit_hold", "onexithold", "max_retries", "retry_until"), _ONCE),
    **dict.fromkeys(("jobmaxretries", "success_exit_code"), _ONCE),
    **dict.fromkeys(("hold", "jobstatus", "noop_job", "isnoopjob"), "no worker would start"),
    **dict.fromkeys(("request_cpus", "request_memory", "request_disk", "request_gpus"), _SLOT),
    **dict.fromkeys(("requestcpus", "requestmemory", "requestdisk", "requestgpus"), _SLOT),
    "accounting_group": "`options.accounting_group` says it",
}
"""What `options.submit` may not set:
https://htcondor.readthedocs.io/en/latest/man-pages/condor_submit.html"""
_NAME_OF = re.compile(r"\s*(?:\+|my\.)?\s*([A-Za-z_][\w.]*)\s*=(?!=)", re.IGNORECASE)


def check_line(line: str) -> None:
    """Raises ValueError for a line of the submit file that is the plugin's own to write."""
    if not line.strip() or line.lstrip().startswith("#"):
        return
    match = _NAME_OF.match(line)
    if line.rstrip().endswith("\\"):
        raise ValueError(f"{line!r} would swallow the line after it")
    if match is None:
        raise ValueError(f"{line!r} is no `name = value`")
    if why := OWN.get(match[1].lower()):
        raise ValueError(f"`{match[1]}` cannot stand here: {why}")


class HTCondorOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`backend.options` of a site of kind `htcondor`; a slot's `extra` changes them."""

    schedd: Word = ""
    pool: Word = ""
    accounting_group: Word = ""
    requirements: Line = ""
    """An expression that a machine must meet."""
    held: Annotated[int, Meta(ge=0, le=10_000_000)] = 3600
    """Seconds after which a held worker is removed."""
    vacate: Annotated[int, Meta(ge=1, le=86400)] = 60
    """Seconds between TERM and KILL."""
    history: bool = True
    """False where the schedd keeps none: what ended unseen then counts as lost."""
    submit: list[Line] = []
    """Further lines of the submit file, as they are, but for those by which workers are found."""
    prefix: list[str] = []
    """A command that runs the others, such as [ssh, login]."""

    def __post_init__(self) -> None:
        for line in self.submit:
            check_line(line)
        check_prefix(self.prefix)


class HTCondor(Batch):
    """The workers of one site in one schedd."""

    Options = HTCondorOptions
    poll_s = 60.0
    settle_s = 60.0
    grace_s = 180.0
    index = '"$AILURUS_INDEX"'
    batch_id = '"$AILURUS_CLUSTER.$AILURUS_INDEX"'

    def __init__(
        self,
        options: HTCondorOptions,
        root: Path,
        prefix: str,
        *,
        timeout_s: float = 60.0,
        run: Run | None = None,
    ) -> None:
        self._options, self._root, self._prefix = options, root, prefix
        self._run = run or runner(timeout_s, ("CONDOR_CONFIG",))
        self.history = options.history

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        script, description = order.directory / "script", order.directory / "submit"
        try:
            script.write_text(order.script, "utf-8")
            script.chmod(0o755)
            description.write_text(
                submit_file(options_of_slot(self._options, order), order, tag), "utf-8"
            )
            ran = self._command("condor_submit", "-terse", str(description))
        except OSError as error:
            return Rejected(f"{script}: {error.strerror}")
        except CommandMissing as error:
            return Rejected(str(error))
        except BatchError as error:
            return Unclear(str(error))
        match = _IDS.fullmatch(ran.out)
        if ran.code == 0 and match and int(match[2]) == order.count - 1:
            return Accepted({n: BatchId(f"{match[1]}.{n}") for n in range(order.count)})
        if is_refusal(ran, _LOST, "ERROR", remote=bool(shells(self._options.prefix))):
            return Rejected(ran.message)
        return Unclear(f"condor_submit: exit code {ran.code}: {ran.message}")

    def trial(self, order: Order, tag: Tag) -> str:
        """Why HTCondor would never start a worker of the order; nothing if it would, by the
        machines that the pool has now. What a schedd demands of its jobs is not asked."""
        options, description = options_of_slot(self._options, order), order.directory / "submit"
        (order.directory / "script").write_text(order.script, "utf-8")
        (order.directory / "0").mkdir(exist_ok=True)
        description.write_text(submit_file(options, order, tag), "utf-8")
        ran = self._command("condor_submit", "-dry-run", "-", str(description))
        if ran.code:
            return ran.message
        if self._machines(roomy := room(order), _NAME, "-limit", "1"):
            meets = demanded(options.requirements)
            if meets and not self._machines(f"{roomy} && ({meets})", _NAME, "-limit", "1"):
                return f"no machine with room for it meets `requirements`: {options.requirements}"
            return ""
        machines = self._machines(_WHOLE, "TotalSlotCpus,TotalSlotMemory")
        if not machines:
            return "the pool shows no machine"
        most = max(machines, key=lambda one: (one.TotalSlotCpus, one.TotalSlotMemory))
        return (
            f"no machine of the pool has {order.cores} cores, {order.memory_mb} MB, {order.disk_mb} MB of "
            f"disk and {order.gpus} GPUs; the largest of {len(machines)} has {most.TotalSlotCpus:g} cores, "
            f"{most.TotalSlotMemory:g} MB"
        )

    def _machines(self, constraint: str, attributes: str, *more: str) -> list[_Machine]:
        where = ["-pool", self._options.pool] if self._options.pool else []
        argv = [
            "condor_status",
            *where,
            "-json",
            "-constraint",
            constraint,
            "-attributes",
            attributes,
        ]
        text = output_of("condor_status", self._run(behind(self._options.prefix, [*argv, *more])))
        return _decode(text, _Machine)

    def listing(self) -> tuple[Sighting, ...]:
        ours = f"substr(AilurusTag, 0, {len(self._prefix)}) == {_quoted(self._prefix)}"
        return self._ads("condor_q", ours)

    def find(
        self, tag: Tag, ids: Collection[BatchId] = (), age_s: float = 0.0
    ) -> tuple[Sighting, ...]:
        this = f"AilurusTag == {_quoted(tag)}"
        # The history is everybody's, and so is the right to write our tag: where its numbers are
        # known, an order is one cluster.
        clusters = sorted({nr for one in ids if (nr := one.partition(".")[0]).isdecimal()})
        ours = f" && ({' || '.join(f'ClusterId == {one}' for one in clusters)})" if clusters else ""
        scan = ("-scanlimit", "50000")
        past = self._ads("condor_history", this + ours, *scan) if self.history else ()
        found = {one.batch_id: one for one in (*past, *self._ads("condor_q", this))}
        return tuple(found.values())

    def cancel(self, ids: Collection[BatchId]) -> None:
        for some in batches_of_500(sorted(ids)):
            ran = self._command("condor_rm", *some)
            if ran.code and not all(_GONE.search(line) for line in ran.err.split("\n") if line):
                raise BatchError(f"condor_rm: {ran.message}")

    def _ads(self, command: str, constraint: str, *more: str) -> tuple[Sighting, ...]:
        ran = self._command(
            command, "-json", "-constraint", constraint, "-attributes", _WANTED, *more
        )
        return parse(output_of(command, ran), self._root)

    def _command(self, name: str, *argv: str) -> Ran:
        where = []
        if self._options.pool:
            where += ["-pool", self._options.pool]
        if self._options.schedd:
            where += ["-name", self._options.schedd]
        return self._run(behind(self._options.prefix, [name, *where, *argv]))


# the submission --------------------------------------------------------------------------------

_IDS = re.compile(r"(\d+)\.0 - \1\.(\d+)\n")
_LOST = re.compile(
    # Nobody answered, or the connection ended while the jobs were handed over.
    r"Can't find address|ailed to connect|ommunicat|timed out|SECMAN|AUTHENTICATE|CEDAR|"
    r"Connection (refused|reset)|Failed to commit job submission into the queue\W*\Z"
)
_GONE = re.compile(r"^Job [\d.]+ not found$|^Couldn't find/remove all jobs in cluster")


def submit_file(options: HTCondorOptions, order: Order, tag: Tag) -> str:
    """The description of an order. A `$` in a path would begin a macro."""
    place = str(order.directory).replace("$", "$(DOLLAR)")
    once = "(MY.NumJobStarts ?: 0) == 0"
    remove = [
        "(JobStatus == 1 && NumJobStarts > 0)",
        f"(JobStatus == 2 && time() - JobCurrentStartExecutingDate > {order.walltime_s})",
        f"(JobStatus == 5 && time() - EnteredCurrentStatus > {options.held})",
    ]
    if order.wait_s:
        remove.append(f"(JobStatus == 1 && time() - QDate > {order.wait_s})")
    lines = [
        "universe = vanilla",
        f"executable = {place}/script",
        'environment = "AILURUS_INDEX=$(Process) AILURUS_CLUSTER=$(Cluster)"',
        f"initialdir = {place}/$(Process)",
        "output = stdout",
        "error = stderr",
        "should_transfer_files = NO",
        f"request_cpus = {order.cores}",
        f"request_memory = {order.memory_mb}",
        f"request_disk = {order.disk_mb * 1024}",
        f"batch_name = {tag}",
        f"My.AilurusTag = {_quoted(tag)}",
        f"requirements = {f'({options.requirements}) && ' if options.requirements else ''}{once}",
        f"leave_in_queue = JobStatus == 4 && time() - CompletionDate < {KEPT_S}",
        f"periodic_remove = {' || '.join(remove)}",
        "kill_sig = SIGTERM",
        "want_graceful_removal = True",
        f"job_max_vacate_time = {options.vacate}",
    ]
    if order.gpus:
        lines.append(f"request_gpus = {order.gpus}")
    if options.accounting_group:
        lines.append(f"accounting_group = {options.accounting_group}")
    return "\n".join([*lines, *options.submit, f"queue {order.count}"]) + "\n"


_WHOLE, _NAME = 'SlotType =!= "Dynamic"', "TotalSlotCpus"


def room(order: Order) -> str:
    """A machine that has all of it, were it empty."""
    wants = {"Cpus": order.cores, "Memory": order.memory_mb, "Disk": order.disk_mb * 1024}
    wants |= {"GPUs": order.gpus} if order.gpus else {}
    return " && ".join([_WHOLE, *(f"TotalSlot{name} >= {one}" for name, one in wants.items())])


def demanded(requirements: str) -> str:
    """A job's requirements as one asks a machine itself; nothing where they speak of the job,
    too."""
    return (
        ""
        if re.search(r"\bMY\.", requirements, re.IGNORECASE)
        else re.sub(r"\bTARGET\.", "", requirements, flags=re.IGNORECASE)
    )


def _quoted(text: str) -> str:
    """A string of a ClassAd; a tag and its prefix are letters and digits."""
    return f'"{text}"'


# what the queue and the history answer ---------------------------------------------------------


class _Ad(Struct, frozen=True):
    ClusterId: int
    ProcId: int
    JobStatus: int
    AilurusTag: str
    NumJobStarts: int = 0
    LastJobStatus: int = 0
    ExitCode: int | None = None
    ExitBySignal: bool = False
    ExitSignal: int | None = None
    HoldReason: str = ""
    HoldReasonCode: int = 0
    RemoveReason: str = ""
    LastRemoteHost: str = ""


class _Machine(Struct, frozen=True):
    TotalSlotCpus: float = 0
    TotalSlotMemory: float = 0


_WANTED = ",".join(_Ad.__struct_fields__)
IDLE, RUNNING, REMOVED, COMPLETED, HELD, TRANSFERRING, SUSPENDED = range(1, 8)
PHASE = {
    IDLE: Phase.QUEUED,
    RUNNING: Phase.STARTING,
    REMOVED: Phase.DRAINING,
    COMPLETED: Phase.ENDED,
    HELD: Phase.HELD,
    TRANSFERRING: Phase.DRAINING,
    SUSPENDED: Phase.HELD,
}
"""Where a JobStatus puts a worker; in the history a removed one has ended."""
BY_POLICY = "The job attribute PeriodicRemove expression"
# Codes of holds: execution time, memory.
TOO_LONG, TOO_MUCH = 47, 34


def parse(text: str, root: Path) -> tuple[Sighting, ...]:
    return tuple(_sighting(ad, root) for ad in _decode(text, _Ad))


_T = TypeVar("_T")


def _decode(text: str, kind: type[_T]) -> list[_T]:
    """condor_q prints nothing at all where it means an empty list."""
    try:
        return msgspec.json.decode(text, type=list[kind]) if text.strip() else []  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        raise BatchError(f"HTCondor's answer cannot be read: {error}") from None


def _sighting(ad: _Ad, root: Path) -> Sighting:
    phase, ending, detail = PHASE.get(ad.JobStatus), None, ""
    if ad.JobStatus == COMPLETED:
        ending, detail = _completed(ad)
        if ending is Ending.FAILED:
            detail = with_last_words(detail, root / ad.AilurusTag / str(ad.ProcId))
    elif ad.RemoveReason:
        phase, (ending, detail) = Phase.ENDED, _removed(ad)
    elif ad.JobStatus == HELD:
        detail = f"held, code {ad.HoldReasonCode}: {ad.HoldReason}"
    elif ad.JobStatus == SUSPENDED:
        detail = "suspended"
    elif phase is None:
        detail = f"HTCondor's JobStatus {ad.JobStatus} is not known here"
    return Sighting(
        batch_id=BatchId(f"{ad.ClusterId}.{ad.ProcId}"), tag=Tag(ad.AilurusTag), index=ad.ProcId,
        phase=phase, ending=ending, detail=detail,
    )  # fmt: skip


def _completed(ad: _Ad) -> tuple[Ending, str]:
    where = f" on {ad.LastRemoteHost}" if ad.LastRemoteHost else ""
    if ad.ExitBySignal:
        return Ending.FAILED, f"killed by signal {ad.ExitSignal}{where}"
    if ad.ExitCode:
        return Ending.FAILED, f"exit code {ad.ExitCode}{where}"
    return Ending.DONE, ""


def _removed(ad: _Ad) -> tuple[Ending, str]:
    """Who is removed by our own expression was overdue, evicted, or held for too long."""
    if ad.HoldReasonCode == TOO_LONG:
        return Ending.WALLTIME, ad.HoldReason
    if ad.HoldReasonCode == TOO_MUCH:
        return Ending.OOM, ad.HoldReason
    if ad.RemoveReason.startswith(BY_POLICY):
        if ad.LastJobStatus == RUNNING:
            return Ending.WALLTIME, "ran for its walltime"
        if ad.LastJobStatus == IDLE and ad.NumJobStarts:
            return Ending.PREEMPTED, "evicted"
    return Ending.CANCELLED, ad.RemoveReason
