"""What a user submits: a job, its files, and the resources that it needs."""

from __future__ import annotations

from typing import Annotated, Any, NewType

from msgspec import Meta, Struct

from ailurus.protocol.did import DidText, Scope
from ailurus.protocol.fields import (
    Adler32,
    FileName,
    LabelName,
    LabelValue,
    Md5,
    Name,
    Positive,
    QueueName,
    ResultName,
    Text,
    Value,
    Variable,
    Whole,
)
from ailurus.protocol.launchers import SINGLE, LauncherName
from ailurus.protocol.machine import Architecture, EachGpu, machine_of
from ailurus.protocol.payloads import ALL, Goal, Payloads, Tries
from ailurus.protocol.resources import Shape
from ailurus.protocol.url import DirectoryUrl, FileUrl

JobId = NewType("JobId", int)


class InputFile(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """A file that is in the job's directory when the payload starts.

    Without `url` it is the output of that name of a job in `depends_on`: the dispatcher fills in
    where it is and its checksum when the job is handed out; a glob or a directory (`results/`)
    becomes all that match. `rucio://scope:name` may name a data set or a container, a URL that ends
    in `/` or has a `*` in its last name a directory's files: then `name` is a directory with these.
    """

    name: FileName
    url: FileUrl = ""
    # Bytes.
    size: Whole | None = None
    adler32: Adler32 | None = None
    md5: Md5 | None = None
    direct: bool = False
    """The payload reads it over the network: the file of this name holds its URL."""
    unpack: bool = False
    """It is an archive (.tar, .tar.gz), and the payload finds a directory of its contents, called
    as the archive without these endings."""


Tree = Annotated[
    str,
    Meta(pattern=r"^(archive|dataset)?(?!\n)$", max_length=7, description="archive or dataset"),
]


class OutputFile(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """A file that the payload leaves in its directory, and the storage directory it goes to.

    The physical name carries job and attempt, so that no attempt overwrites another's file; without
    `url` it goes to the default storage of the site that ran the job. With `scope` it goes to the
    site's storage in Rucio, and when the job has finished the dispatcher registers it there, as
    `scope:STORE.JOB.ATTEMPT.NAME`. A name with a `*`, or of a directory (`results/`), stands for
    many files.
    """

    name: FileName
    url: DirectoryUrl = ""
    optional: bool = False
    scope: Scope = ""
    dataset: DidText = ""
    """The data set of Rucio into which it is put, closed when nothing more comes into it."""
    lifetime_s: Annotated[int, Meta(ge=1, le=3_153_600_000)] | None = None
    """How long Rucio keeps it; None: for ever."""
    tree: Tree = ""
    """What becomes of a directory: one archive, `NAME.tar.gz`, or each file an output of its own,
    with a `scope` in the data set of Rucio."""


class CredentialUse(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """A credential of the submitter, by the name under which the dispatcher keeps it.

    The pilot moves the job's files with it. The payload has it only if the job says so.
    """

    name: Name
    payload: bool = False
    """Whether the payload gets it, as a file that a variable names."""


class JobSpec(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """What a job asks for; never changes. One run of it is the pair (job_id, attempt_nr)."""

    name: Name
    command: Annotated[Text, Meta(max_length=100_000)] = ""
    """One shell line, run by `/bin/sh -c` in the job's directory."""
    script: Annotated[Text, Meta(max_length=1_000_000)] = ""
    """Or a whole script with its `#!` line, run as a program."""
    inputs: Annotated[tuple[InputFile, ...], Meta(max_length=10_000)] = ()
    outputs: Annotated[tuple[OutputFile, ...], Meta(max_length=10_000)] = ()
    result: ResultName = ""
    """A small JSON document that the payload leaves in its directory: it comes with the report, and
    is kept at the dispatcher."""
    container: Annotated[str, Meta(max_length=2000)] = ""
    cores: Annotated[int, Meta(ge=1, le=100_000)] = 1
    memory_mb: Positive = 2000
    """Whole job, not per core (PanDA minRamCount)."""
    disk_mb: Positive = 2000
    """Scratch space beside the inputs (PanDA maxDiskCount)."""
    gpus: Annotated[int, Meta(ge=0, le=1000)] = 0
    gpu_share: Annotated[int, Meta(ge=0, le=90)] = 0
    """How much of its one GPU, in hundredths, beside other jobs there; 0: all of each. A job file
    writes it in place of their number, as `gpus: 0.5`."""
    each_gpu: EachGpu | None = None
    """What each of them must be; a job file writes it with their number, as `gpus: {…}`."""
    arch: Annotated[tuple[Architecture, ...], Meta(max_length=20)] = ()
    """Architectures for which its program was made: it runs on any of them; none: on each."""
    nodes: Annotated[int, Meta(ge=1, le=100_000)] = 1
    walltime_s: Annotated[int, Meta(ge=1, le=31_536_000)] | None = None
    """The payload is killed after this long (PanDA maxWalltime); None: no limit of its own."""
    estimate_s: Annotated[float, Meta(ge=0)] | None = None
    """How long the payload will probably run: of those that fit the longest starts first."""
    looping_s: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None
    """The payload is killed when it gives no sign of life for this long; 0: never (PanDA
    loopingCheck false); None: as the site says."""
    launcher: LauncherName = SINGLE
    launcher_options: Annotated[dict[Variable, Any], Meta(max_length=50)] = {}
    """Of the launcher's own type: see `ailurus.protocol.launchers`."""
    environment: Annotated[dict[Variable, Value], Meta(max_length=10_000)] = {}
    credentials: Annotated[tuple[CredentialUse, ...], Meta(max_length=8)] = ()
    """What its files are moved with in place of the site's own credentials."""
    network: bool = False
    """Whether the payload may reach the network; a sandboxed one may not unless it asks."""
    labels: Annotated[dict[LabelName, LabelValue], Meta(max_length=20)] = {}
    """What its user finds it by: `label:campaign=mc23`. No pilot gets them."""
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    queue: QueueName = ""
    """Empty: offered to every queue that can run it."""
    depends_on: Annotated[tuple[Whole | Name, ...], Meta(max_length=10_000)] = ()
    """Job ids, or names of jobs of the same submission, that must finish first."""
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    """How often to try, whatever the failure; None: five times, and only after failures that
    another attempt can cure (a lost worker, a failed transfer)."""
    payloads: Payloads | None = None
    """Items that it carries, each run by itself in a share of what the job takes; with `command` or
    `script` as the program of those that have none."""
    goal: Goal = ALL
    item_attempts: Tries | None = None
    """How often to try an item, whatever the failure; None: three times, and only after failures
    that another attempt can cure. A lost node does not count."""
    log: Annotated[str, Meta(pattern=r"^(end|whole)(?!\n)$", description="end or whole")] = "end"
    """What is kept of its output: the end of each stream, or all of it: at the dispatcher as far as
    that keeps logs, and as log.tgz in the site's storage, also if it finishes."""


WHOLE_LOG = "whole"
LOG = "log.tgz"
"""The log of an attempt among its outputs."""
DEFAULT_ATTEMPTS = 5


MEMORY_STEP_MB, DISK_STEP_MB = 250, 1000
"""To whose multiples memory and disk of a shape are rounded up: few shapes stand for many jobs."""


def shape_of(spec: JobSpec) -> Shape:
    """The shape of a job."""
    return Shape(
        cores=spec.cores,
        memory_mb=_round_up(spec.memory_mb, MEMORY_STEP_MB),
        disk_mb=_round_up(spec.disk_mb, DISK_STEP_MB),
        gpus=spec.gpus,
        gpu_share=spec.gpu_share,
        nodes=spec.nodes,
        walltime_s=_round_up(spec.walltime_s or 0, 60),
        machine=machine_of(spec.arch, spec.each_gpu) if spec.arch or spec.each_gpu else "",
    )


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
