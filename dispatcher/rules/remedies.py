"""What helps after a failure, by its code, and whether the same job again may end otherwise.

A pilot that failed a job says what helps in that very case; this is for codes that came without a
word.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ailurus.protocol.errors import Code
from ailurus.protocol.messages import JobRow
from ailurus.protocol.states import JobState

# Named in one command.
PARENTS = 20


class Remedy(Struct, frozen=True):
    """What helps. `again`: then the same job may be tried anew; else another one is to be
    submitted."""

    text: str
    again: bool = True


_OTHERS = Remedy("its surroundings failed, not the job")
_TABLE: dict[int, Remedy] = {
    Code.PAYLOAD_FAILED: Remedy(
        "read `dispatcher logs {id} --stream stderr`: what is wrong in the job itself needs a new "
        "submission, what is wrong elsewhere is to be mended"
    ),
    Code.NO_SUCH_FILE: Remedy("put the input where the job says it is"),
    Code.MISSING_INPUT: Remedy("declare its lost replica bad in Rucio, or upload the file anew"),
    Code.GET_ADLER_MISMATCH: Remedy("replace the damaged file, or declare its right checksum"),
    Code.GET_MD5_MISMATCH: Remedy("replace the damaged file, or declare its right checksum"),
    Code.KILLED_BY_SERVER: Remedy("somebody stopped it"),
    Code.STORAGE_FORBIDDEN: Remedy(
        "name storage that the site allows in the job file", again=False
    ),
    Code.NO_PROTOCOL: Remedy("give its files URLs that the site can read and write", again=False),
    Code.NOT_IMPLEMENTED: Remedy("change what its pilots cannot do, or its queue", again=False),
    Code.BAD_FILE_NAME: Remedy("give the file a plain name", again=False),
    Code.MISSING_OUTPUT: Remedy(
        "let the payload write the output into the directory it starts in, or make it `optional`",
        again=False,
    ),
    Code.OUTPUT_UNSAFE: Remedy("let the payload leave a regular file", again=False),
    Code.OUT_OF_MEMORY: Remedy("ask for more `memory`", again=False),
    Code.OVER_MEMORY: Remedy("ask for more `memory`", again=False),
    Code.WALLTIME: Remedy("ask for more `walltime`, or do less in one job", again=False),
    Code.WORKDIR_TOO_LARGE: Remedy("ask for more `disk`", again=False),
    Code.STDOUT_TOO_BIG: Remedy("let it print less, or into an output file", again=False),
    Code.OUTPUT_TOO_LARGE: Remedy("write smaller outputs, or choose another queue", again=False),
    Code.INPUTS_TOO_LARGE: Remedy("give it fewer inputs, or choose another queue", again=False),
    Code.LOOPING_JOB: Remedy(
        "find out where it hangs; `dispatcher logs {id}` has its last words", again=False
    ),
}


def of(code: int) -> Remedy:
    """What helps after a failure with that code."""
    if (known := _TABLE.get(code)) is not None:
        return known
    passing = any(one == code and one.transient for one in Code)
    return _OTHERS if passing else Remedy("see `dispatcher show {id}`")


def after(row: JobRow, parents: Sequence[tuple[int, str]], advice: str = "") -> str:
    """What helps a failed job, as a sentence whose commands are not refused. `advice`: of its
    pilot."""
    if row.code == Code.PARENT_FAILED:
        bad = [parent for parent, state in parents if state not in ("", JobState.FINISHED)]
        if len(bad) > PARENTS or not bad:
            return "mend the jobs that it depends on and retry them together with it"
        ids = " ".join(map(str, [*bad, row.job_id]))
        which = f"job {bad[0]}" if len(bad) == 1 else "the jobs that it depends on"
        return f"mend what failed in {which}, then retry both together: `dispatcher retry {ids}`"
    remedy = of(row.code)
    first = advice or remedy.text.format(id=row.job_id)
    if remedy.again:
        return f"{first}; then `dispatcher retry {row.job_id}`"
    return f"{first}; then submit it anew: a retry would fail alike"
