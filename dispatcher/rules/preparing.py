"""Jobs as they are stored: specifications encoded off the event loop, and what a request says."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.job import JobSpec, shape_of
from ailurus.protocol.resources import Shape

# Jobs, and characters of them, that are prepared on the event loop.
FEW, SHORT = 10, 32_000
# Jobs that a thread prepares in one go.
IN_ONE_GO = 250
_encode = msgspec.json.Encoder().encode


class Prepared(Struct, frozen=True, gc=False):
    """A job ready to be stored; made off the event loop."""

    spec: JobSpec
    body: bytes
    shape: Shape
    wants: int
    after: tuple[int, ...] = ()
    """Where in the request the jobs stand that a retried job waits for."""


def brief(jobs: Sequence[JobSpec]) -> bool:
    """Whether these are prepared in less time than a thread takes to begin."""
    return len(jobs) <= FEW and sum(map(_length, jobs)) <= SHORT


def _length(job: JobSpec) -> int:
    """About how many characters a specification has, without its names."""
    text = len(job.command) + len(job.script) + sum(map(len, job.environment.values()))
    parts = len(job.environment) + len(job.inputs) + len(job.outputs) + len(job.depends_on)
    return text + 100 * parts


def prepare(jobs: Sequence[JobSpec]) -> list[Prepared]:
    """Encode the specifications as they will be sent to pilots. Jobs in a row that wait for the
    same ones get one list of them: `links` compares no two of a million."""
    made: list[Prepared] = []
    last: tuple[int | str, ...] = ()
    for nr, spec in enumerate(jobs, start=1):
        if nr % IN_ONE_GO == 0:
            # The event loop gets the interpreter, and the core if it is queued behind this thread.
            time.sleep(0)
        if spec.depends_on and spec.depends_on == last:
            spec = replace(spec, depends_on=last)  # noqa: PLW2901
        last = spec.depends_on
        made.append(prepared(spec))
    return made


def prepared(spec: JobSpec, after: tuple[int, ...] = ()) -> Prepared:
    """Encode one specification as it will be sent to a pilot: without its labels, which an earlier
    one does not know. `after`: as in `Prepared`."""
    wants = sum(not file.url for file in spec.inputs)
    sent = replace(spec, labels={}) if spec.labels else spec
    return Prepared(spec, _encode(sent), shape_of(spec), wants, after)


def digest_of(
    jobs: Sequence[Prepared], name: str = "", labels: Mapping[str, str] | None = None
) -> str:
    """What a request says: its jobs, and the name and labels of all of it. Defaults are left out of
    a body, so it is the same in the next version."""
    digest = hashlib.sha256()
    # All together would be a copy of them.
    for at in range(0, len(jobs), 100):
        digest.update(b"\n" * (at > 0) + b"\n".join(job.body for job in jobs[at : at + 100]))
    for nr, job in enumerate(jobs):
        if job.spec.labels:
            digest.update(_encode((nr, sorted(job.spec.labels.items()))))
    if name or labels:
        digest.update(_encode((name, sorted((labels or {}).items()))))
    return digest.hexdigest()
