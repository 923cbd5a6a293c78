"""OpenPBS and PBS Professional: an order is one job array (a plain job if it is one worker), named
by its tag.

The listing is one `qstat` without ids: with several, this version answers for the first only. Its
JSON is broken by what any user's job may carry (functions in the environment, numbers with leading
zeros), so a listing that cannot be read is asked again for our own jobs alone, one call an order.
What has left the listing is found by `qselect -x`, where the server keeps a history.

An allocation of several nodes starts its workers by `pbsdsh`, whose tasks know their host's number
in the job (PBS_NODENUM). It starts one on each logical node: on more than one a host where a site's
`chunk` says `mpiprocs`, and then the first of a host is the worker. It is content whatever becomes
of them, so its own words tell the job whether one failed.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
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
from plugins.batch import pbs_fit as fit
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

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:@=+-]*(?!\n)$", max_length=500)]


_FOUND = "the edge finds its workers by it"
_FILES = "a worker's files lie in its own directory"
_SLOT = "the slot says it"
_NOTHING = "qsub would not print the job's number and return"
QSUB = Grammar(
    own={
        **dict.fromkeys(("-N", "-J", "-W Job_Name", "-W array_indices_submitted"), _FOUND),
        **dict.fromkeys(("-u", "-W User_List"), "the edge lists its own user's jobs"),
        **dict.fromkeys(("-o", "-e", "-W Output_Path", "-W Error_Path"), _FILES),
        **dict.fromkeys(("-I", "-f", "-z", "-W block", "-W interactive", "--version"), _NOTHING),
        **dict.fromkeys(("-S", "-C", "-W Shell_Path_List"), "the script is read by /bin/sh"),
        **dict.fromkeys(("-l select", "-l nodes", "-l ncpus", "-l mem", "-l walltime"), _SLOT),
        "-l place": "`options.place` says it",
        "-v AILURUS_INDEX": "it is a worker's number",
    },
    flags=frozenset({"-f", "-h", "-I", "-V", "-X", "-z", "--version"}),
)
"""What `options.submit` may not say: qsub(1B)."""


class PBSOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`backend.options` of a site of kind `pbs`; a slot's `extra` changes them."""

    queue: Word = ""
    account: Word = ""
    project: Word = ""
    chunk: Word = ""
    """More of what each chunk of `select` asks for, such as `cpu_type=milan:ngpus=4`."""
    place: Word = ""
    """`scatter:excl`, say."""
    memory: bool = True
    """Ask for memory; false where it comes with the cores."""
    history: bool = True
    """False where the server keeps none (job_history_enable): what ended unseen then counts as
    lost. The server is asked when it gives no history."""
    user: Word = ""
    """The user whose jobs ours are; by default the one that the edge runs as."""
    submit: list[str] = []
    """Further arguments of qsub, as they are, but for those by which workers are found."""
    prefix: list[str] = []
    """A command that runs the others, such as [ssh, login]."""

    def __post_init__(self) -> None:
        check(self.submit, QSUB)
        check_prefix(self.prefix)


class PBS(Batch):
    """The workers of one site at one server."""

    Options = PBSOptions
    poll_s = 120.0
    settle_s = 120.0
    grace_s = 240.0
    index = '"${AILURUS_INDEX:-${PBS_ARRAY_INDEX:-0}}"'
    most_nodes = MAX_NODES
    heads = True

    def __init__(
        self,
        options: PBSOptions,
        root: Path,
        prefix: str,
        *,
        timeout_s: float = 60.0,
        run: Run | None = None,
    ) -> None:
        self._options, self._root, self._prefix = options, root, prefix
        settings = ("PBS_CONF_FILE", "PBS_EXEC", "PBS_SERVER", "PBS_DEFAULT")
        self._run = run or runner(timeout_s, settings)
        # Until the server says that it keeps none.
        self.history = options.history
        # Our name there.
        self._known = ""

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        script = order.directory / "script"
        try:
            script.write_text(order.script, "utf-8")
            if order.together > 1:
                (order.directory / "node").write_text(node(order), "utf-8")
            (order.directory / "job").write_text(job(order, self.index), "utf-8")
            ran = self._command(*qsub(options_of_slot(self._options, order), order, tag))
        except OSError as error:
            return Rejected(f"{script}: {error.strerror}")
        except CommandMissing as error:
            return Rejected(str(error))
        except BatchError as error:
            return Unclear(str(error))
        match = _ID.fullmatch(ran.out)
        many = order.allocations > 1
        if ran.code == 0 and match and bool(match[2]) == many:
            own = f"{match[1]}[{{}}]" if many else match[1]
            ids = {n: BatchId(own.format(n // order.together)) for n in range(order.count)}
            return Accepted(ids)
        if is_refusal(ran, _LOST, "qsub:", remote=bool(shells(self._options.prefix))):
            return Rejected(ran.message)
        return Unclear(f"qsub: exit code {ran.code}: {ran.message}")

    def trial(self, order: Order, _: Tag) -> str:
        """Why PBS would never start a worker of the order; nothing if it would, by its queues and
        nodes."""
        options = options_of_slot(self._options, order)
        queue = options.queue
        if not queue:
            servers = self._about("qstat", "-B", "-f").Server.values()
            queue = next((one.default_queue for one in servers), "")
        queues = self._about("qstat", "-Q", "-f").Queue
        what = fit.requested(order, options.chunk, memory=options.memory)
        return fit.why_not(what, queue, queues, self._about("pbsnodes", "-a").nodes)

    def _about(self, *argv: str) -> fit.Answer:
        return fit.read(output_of(argv[0], self._command(*argv, "-F", "json")))

    def listing(self) -> tuple[Sighting, ...]:
        out = output_of("qstat", self._command("qstat", *_JSON))
        mine = self._user()
        try:
            return tuple(parse(out, self._prefix, self._root, mine))
        except BatchError:
            return tuple(self._one_by_one(self._prefix, "-u", mine or getpass.getuser()))

    def _user(self) -> str:
        """Who PBS takes us for: names of jobs are seen by everybody, and can be given by everybody.
        Empty: not known, where a prefix runs what the site lets it, and no `id`."""
        if not self._known:
            self._known = self._options.user
        if not self._known and self._options.prefix:
            ran = self._command("id", "-un")
            self._known = ran.out.strip() if ran.code == 0 else ""
        elif not self._known:
            self._known = _name_of(os.geteuid())
        return self._known

    def find(
        self, tag: Tag, ids: Collection[BatchId] = (), age_s: float = 0.0
    ) -> tuple[Sighting, ...]:
        mine = self._user()
        which = ("-N", tag, *(("-u", mine) if mine else ()))
        try:
            found = tuple(self._one_by_one(tag, *which, history=self.history))
        except BatchError:
            if not self.history or self._keeps_history():
                raise
            self.history = False
            found = tuple(self._one_by_one(tag, *which))
        return (*found, *self._renamed(tag, {*ids} - {one.batch_id for one in found}))

    def _keeps_history(self) -> bool:
        """What the server says of itself: none is PBS's default. Raises BatchError."""
        servers = self._about("qstat", "-B", "-f").Server.values()
        return not servers or any(one.job_history_enable == "True" for one in servers)

    def _renamed(self, tag: Tag, ids: Collection[BatchId]) -> Iterator[Sighting]:
        """Jobs of these ids, which nothing shows by the tag: somebody has given them another
        name."""
        past = ("-x",) if self.history else ()
        for job in sorted({re.sub(r"\[\d*\]", "[]", one) for one in ids}):
            ran = self._command("qstat", *past, *_JSON, job)
            # Else it has just answered, so they are not there.
            if ran.code == 0:
                found = parse(output_of("qstat", ran), "", self._root)
                yield from (
                    renamed_job(one, tag) for one in found if one.batch_id in ids and one.tag != tag
                )

    def _one_by_one(self, prefix: str, *which: str, history: bool = False) -> Iterator[Sighting]:
        past = ("-x",) if history else ()
        for batch_id in output_of("qselect", self._command("qselect", *past, *which)).split():
            ran = self._command("qstat", *past, *_JSON, batch_id)
            # It left between the two.
            if ran.code not in GONE:
                yield from parse(output_of("qstat", ran), prefix, self._root)

    def cancel(self, ids: Collection[BatchId]) -> None:
        for some in batches_of_500(sorted(ids)):
            ran = self._command("qdel", *some)
            if ran.code and not all(_GONE.search(line) for line in ran.err.split("\n") if line):
                raise BatchError(f"qdel: {ran.message}")

    def _command(self, *argv: str) -> Ran:
        return self._run(behind(self._options.prefix, argv))


# the submission --------------------------------------------------------------------------------

_JSON = ("-t", "-f", "-F", "json")
_ID = re.compile(r"(\d+)(\[\])?(?:\.[\w.-]+)?\n")
_LOST = re.compile(
    # The server may have taken the job, and its word is lost.
    r"cannot connect|Connection (refused|reset)|ommunication failure|timed out|End of File|"
    r"Premature end|No route|errno=",
)
# Finished; unknown.
GONE = (35, 153)
_GONE = re.compile(r"Job has finished|Unknown Job Id")


def qsub(options: PBSOptions, order: Order, tag: Tag) -> list[str]:
    """One command for all workers of an order. An array has at least two, and must be rerunable: a
    worker that PBS runs again is told to leave when it registers."""
    select = f"select={order.nodes}:ncpus={order.cores}"
    if options.memory:
        select += f":mem={order.memory_mb}mb"
    if order.gpus:
        select += f":ngpus={order.gpus}"
    if options.chunk:
        select += f":{options.chunk}"
    argv = ["qsub", "-N", tag, "-l", select, "-l", f"walltime={hms(order.walltime_s)}"]
    argv += (
        ["-J", f"0-{order.allocations - 1}", "-r", "y"] if order.allocations > 1 else ["-r", "n"]
    )
    argv += ["-o", "/dev/null", "-e", "/dev/null", "-S", "/bin/sh"]
    place = scattered(options.place) if order.nodes > 1 else options.place
    if place:
        argv += ["-l", f"place={place}"]
    for flag, value in (("-q", options.queue), ("-A", options.account), ("-P", options.project)):
        argv += [flag, value] if value else []
    return [*argv, *options.submit, str(order.directory / "job")]


def scattered(place: str) -> str:
    """A host for each chunk, whatever else is asked."""
    rest = [
        part for part in place.split(":") if part not in ("", "free", "pack", "scatter", "vscatter")
    ]
    return ":".join(["scatter", *rest])


def job(order: Order, index: str) -> str:
    """PBS brings output when a job has ended, if it can; this one writes it where it belongs."""
    place = shlex.quote(str(order.directory))
    if order.together == 1:
        here = f"{place}/{index}"
        return (
            f"#!/bin/sh\nexec /bin/sh {place}/script > {here}/stdout 2> {here}/stderr < /dev/null\n"
        )
    return (
        "#!/bin/sh\n"
        "PATH=$PATH:/opt/pbs/bin\n"
        f"run=$(mktemp -d {place}/run.XXXXXX) || exit 1\n"
        f'pbsdsh -- /bin/sh {place}/node "$run" "${{PBS_ARRAY_INDEX:-0}}" '
        '> "$run/stdout" 2> "$run/stderr" < /dev/null || exit\n'
        "! grep -q 'exit status [^0]' \"$run/stdout\"\n"
    )


def node(order: Order) -> str:
    """What `pbsdsh` starts: $1 is a directory of this run of the job, $2 the job's number in its
    array."""
    place = shlex.quote(str(order.directory))
    here = f'{place}/"$AILURUS_INDEX"'
    return (
        "#!/bin/sh\n"
        "set -u\n"
        'mkdir "$1/$PBS_NODENUM" || { test -d "$1/$PBS_NODENUM"; exit; }\n'
        f"export AILURUS_INDEX=$(($2 * {order.nodes} + PBS_NODENUM))\n"
        f"exec /bin/sh {place}/script > {here}/stdout 2> {here}/stderr < /dev/null\n"
    )


# what the server answers -----------------------------------------------------------------------


class _Job(Struct, frozen=True):
    Job_Name: str | int | float
    """A name like 0123 comes as a number."""
    job_state: str
    Job_Owner: str = ""
    substate: int = 0
    Exit_status: int | None = None
    comment: Any = ""
    array_indices_submitted: str | int = ""


class _Answer(Struct, frozen=True):
    Jobs: dict[str, _Job] = {}


PHASE = {
    **dict.fromkeys(("Q", "W", "T"), Phase.QUEUED),
    "H": Phase.HELD,
    **dict.fromkeys(("R", "B"), Phase.STARTING),
    **dict.fromkeys(("S", "U"), Phase.HELD),
    "E": Phase.DRAINING,
    **dict.fromkeys(("F", "X"), Phase.ENDED),
}
"""Where a state puts a worker. M, moved to another server, is left unknown: nobody here sees its
end."""
DETAIL = {"S": "suspended", "U": "suspended: its machine is in use"}
OVER_WALLTIME, OVER_MEMORY, OVER_CPU = -29, (-26, -27), (-24, -25, -28)
# Substate of what qdel ended.
TERMINATED = 91


def parse(text: str, prefix: str, root: Path, owner: str = "") -> Iterator[Sighting]:
    """The workers whose job's name begins with the prefix; of that owner, if one is given. Raises
    BatchError unless the text is an answer of qstat."""
    try:
        jobs = msgspec.json.decode(text, type=_Answer).Jobs if text.strip() else {}
    except msgspec.DecodeError as error:
        raise BatchError(f"qstat's answer cannot be read: {error}") from None
    for batch_id, one in jobs.items():
        match = re.fullmatch(r"(\d+)(?:\[(\d*)\])?(?:\..*)?", batch_id)
        if match is None or not str(one.Job_Name).startswith(prefix):
            continue
        if owner and one.Job_Owner and one.Job_Owner.partition("@")[0] != owner:
            continue
        number, index = match.groups()
        tag = Tag(str(one.Job_Name))
        if index != "":
            own = number if index is None else f"{number}[{index}]"
            yield from _sightings(BatchId(own), tag, int(index or 0), one, root)
            continue
        # Before it began, or never.
        if one.job_state in "QHWT" or one.substate == TERMINATED:
            for nr in tasks(str(one.array_indices_submitted)):
                if f"{number}[{nr}]{batch_id.partition(']')[2]}" not in jobs:
                    yield from _sightings(BatchId(f"{number}[{nr}]"), tag, nr, one, root)


def _name_of(uid: int) -> str:
    """As the server asks the system; LOGNAME may say something else."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _sightings(batch_id: BatchId, tag: Tag, nr: int, one: _Job, root: Path) -> Iterator[Sighting]:
    """The workers of one job: one a node."""
    each = nodes_of(tag)
    for index in range(nr * each, (nr + 1) * each):
        yield _sighting(batch_id, tag, index, one, root)


def _sighting(batch_id: BatchId, tag: Tag, index: int, one: _Job, root: Path) -> Sighting:
    phase, ending, detail = PHASE.get(one.job_state), None, DETAIL.get(one.job_state, "")
    if phase is Phase.ENDED:
        ending, detail = _ending(one)
        if ending is Ending.FAILED:
            detail = with_last_words(detail, root / tag / str(index))
    elif phase is None:
        detail = f"PBS's state {one.job_state} is not known here"
    elif phase is Phase.HELD:
        detail = detail or str(one.comment) or "held"
    elif phase is Phase.QUEUED and str(one.comment).startswith("Can Never Run"):
        phase, detail = Phase.HELD, str(one.comment)
    return Sighting(
        batch_id=batch_id, tag=tag, index=index, phase=phase, ending=ending, detail=detail
    )


def _ending(one: _Job) -> tuple[Ending, str]:
    """By exit status; a negative one is the server's own."""
    status, comment = one.Exit_status, str(one.comment)
    if status == OVER_WALLTIME:
        return Ending.WALLTIME, comment
    if one.substate == TERMINATED:
        return Ending.CANCELLED, comment
    if status is None:
        return Ending.FAILED, comment or "ended without an exit status"
    if status == 0:
        return Ending.DONE, ""
    if status in OVER_MEMORY:
        return Ending.OOM, comment
    if status in OVER_CPU:
        return Ending.FAILED, f"exceeded a limit, exit status {status}: {comment}"
    if status < 0:
        return Ending.NODE_FAIL, f"exit status {status}: {comment}"
    if status > 128:
        return Ending.FAILED, f"killed by signal {status - (256 if status > 256 else 128)}"
    return Ending.FAILED, f"exit code {status}"
