"""What each batch plugin is given in the contract test: recordings of its batch system, by what
they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harvester_edge.ports import Batch, BatchError, Tag
from plugins.batch.commands import Ran
from plugins.batch.htcondor import HTCondor, HTCondorOptions
from plugins.batch.pbs import PBS, PBSOptions
from plugins.batch.slurm import Slurm, SlurmOptions
from tests.plugins.recordings import HUNG, Player, recorded

PREFIX = "aabcd"
TAG = Tag("aabcdtag")
KILLED = Ran(-9)
SILENT = Ran(0)


@dataclass(frozen=True)
class Case:
    """A plugin that runs commands. `alive` and `unknown`: the listing of one worker, TAG.0."""

    kind: str
    make: Callable[..., Batch]
    """Of (root, run, **options)."""
    one: Ran
    """The answer to the submission of one worker, and that of two."""
    two: Ran
    refusals: Sequence[Ran]
    unclear: Sequence[Ran | BatchError]
    empty: Ran
    alive: Ran
    unknown: Ran
    failed: Ran
    others: Ran
    """Jobs of other users, one of them with a name that begins alike."""
    no_listing: Sequence[Ran | BatchError]
    gone: Sequence[Ran]
    """The answer to a cancel of what has ended."""
    not_cancelled: Sequence[Ran | BatchError]
    changing: frozenset[str]
    """Commands that change something."""

    def batch(self, root: Path, *answers: Ran | BatchError, **options: object) -> Batch:
        return self.make(root, Player(list(answers)), **options)

    def played(
        self, root: Path, *answers: Ran | BatchError, **options: object
    ) -> tuple[Batch, Player]:
        player = Player(list(answers))
        return self.make(root, player, **options), player

    def __str__(self) -> str:
        return self.kind


def _recorded(system: str, *stems: str) -> list[Ran]:
    return [recorded(system, stem) for stem in stems]


# Slurm ------------------------------------------------------------------------------------------


def _squeue(state: str, name: str = TAG) -> Ran:
    return Ran(0, f"17|0|{state}|None|n1|{name}\n")


SLURM = Case(
    kind="slurm",
    make=lambda root, run, **options: Slurm(SlurmOptions(**options), root, PREFIX, run=run),
    one=Ran(0, "17\n"),
    two=recorded("slurm", "sbatch_array_parsable"),
    refusals=_recorded(
        "slurm", "err_bad_partition", "err_invalid_account", "err_too_many_nodes",
        "err_too_many_cpus", "err_bad_array", "err_bad_qos", "err_time_over_partition_limit",
        "err_bad_time", "err_no_file", "err_no_shebang", "err_bad_option",
    ),
    unclear=[
        *_recorded("slurm", "err_timeout_sbatch", "err_down_sbatch", "err_munge_down_sbatch"),
        recorded("slurm", "sbatch_plain"),
        Ran(0, "Welcome to the cluster\n17\n"),
        Ran(0, "17\n18\n"),
        Ran(0, "17"),
        Ran(1, "17\n"),
        Ran(1, "17\n", "sbatch: error: Batch job submission failed: Invalid qos specification\n"),
    ],
    empty=SILENT,
    alive=_squeue("RUNNING"),
    unknown=_squeue("LEVITATING"),
    failed=_squeue("FAILED"),
    others=Ran(
        0, f"CLUSTER: c1\nWelcome!\n17|N/A|RUNNING|None|n1|{TAG}\n9|0|FAILED|None||x{TAG}\n"
    ),
    no_listing=[
        *_recorded("slurm", "err_timeout_squeue", "err_down_squeue", "err_munge_down"),
        Ran(0, "", "slurm_load_jobs error: Unexpected message received\n"),
        Ran(0, f"17|3|RUNNING|None|n1|{TAG}\n17|4|RUNN"),
        Ran(0, f"17|3|RUNNING|None|n1|{TAG}\n17|4|RUNN\n"),
    ],
    gone=[SILENT],
    not_cancelled=_recorded("slurm", "err_down_scancel"),
    changing=frozenset({"sbatch", "scancel"}),
)  # fmt: skip


# PBS --------------------------------------------------------------------------------------------


def _qstat(state: str, name: str = TAG, **more: object) -> Ran:
    job = {"Job_Name": name, "job_state": state, "Job_Owner": "alice@here", **more}
    return Ran(0, json.dumps({"Jobs": {"17.pbshost": job}}) + "\n")


PBS_CASE = Case(
    kind="pbs",
    make=lambda root, run, **options: PBS(
        PBSOptions(**{"user": "alice", "queue": "workq", **options}), root, PREFIX, run=run
    ),
    one=recorded("pbs", "qsub_ok"),
    two=recorded("pbs", "qsub_array"),
    refusals=_recorded(
        "pbs", "err_bad_array", "err_bad_option", "err_unknown_queue", "err_queue_disabled",
        "err_unknown_resource", "err_walltime_over_queue_max", "err_bad_walltime", "err_no_script",
    ),
    unclear=[
        recorded("pbs", "err_server_down_qsub"),
        # An array, and one job was asked for.
        recorded("pbs", "qsub_array"),
        Ran(0, "Welcome\n54.pbshost\n"),
        Ran(0, "54.pbshost\n55.pbshost\n"),
        Ran(0, "54.pbshost"),
        Ran(1, "54.pbshost\n"),
    ],
    empty=recorded("pbs", "qstat_empty.json"),
    alive=_qstat("R"),
    unknown=_qstat("?"),
    failed=_qstat("F", Exit_status=3),
    others=_qstat("R", f"x{TAG}"),
    no_listing=[
        recorded("pbs", "err_server_down_qstat"),
        Ran(0, '{"Jobs":{"1.p":{'),
        Ran(0, "Hi\n"),
    ],
    gone=_recorded("pbs", "err_qdel_unknown", "err_qdel_finished"),
    not_cancelled=_recorded("pbs", "err_qdel_not_owner", "err_server_down_qdel"),
    changing=frozenset({"qsub", "qdel"}),
)  # fmt: skip


# HTCondor ---------------------------------------------------------------------------------------


def _ad(status: int, **more: object) -> Ran:
    ad = {"ClusterId": 17, "ProcId": 0, "AilurusTag": TAG, "JobStatus": status, **more}
    return Ran(0, json.dumps([ad]) + "\n")


HTCONDOR = Case(
    kind="htcondor",
    make=lambda root, run, **options: HTCondor(HTCondorOptions(**options), root, PREFIX, run=run),
    one=recorded("htcondor", "submit_terse"),
    two=Ran(0, "17.0 - 17.1\n"),
    refusals=_recorded(
        "htcondor", "err_bad_submit_file", "err_no_queue", "err_bad_requirements", "err_no_file"
    ),
    unclear=[
        recorded("htcondor", "err_schedd_down_submit"),
        # Five, and one was asked for.
        recorded("htcondor", "submit_terse_many"),
        Ran(0, "Submitting job(s).\n1 job(s) submitted to cluster 17.\n"),
        Ran(0, "17.0 - 17.0\n18.0 - 18.0\n"),
        Ran(0, "17.0 - 17.0"),
        Ran(1, "17.0 - 17.0\n"),
    ],
    empty=recorded("htcondor", "condor_q_empty.json"),
    alive=_ad(2),
    unknown=_ad(99),
    failed=_ad(4, ExitCode=3),
    # The schedd selects by tag: it would print nothing.
    others=SILENT,
    no_listing=[
        *_recorded("htcondor", "err_schedd_down_q", "err_schedd_hung_q"),
        Ran(0, "", "Error: Can't find address for schedd\n"),
        Ran(0, '[\n{\n  "ClusterId": 8,\n'),
        Ran(0, "-- Failed to fetch ads\n"),
        Ran(0, '[{"ClusterId": "8"}]\n'),
    ],
    gone=_recorded("htcondor", "err_rm_unknown", "err_rm_finished"),
    not_cancelled=_recorded("htcondor", "err_rm_not_owner", "err_schedd_down_rm"),
    changing=frozenset({"condor_submit", "condor_rm"}),
)  # fmt: skip

CASES = (SLURM, PBS_CASE, HTCONDOR)
NO_ANSWER = (HUNG, KILLED)
