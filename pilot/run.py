"""The payload: from a slot to how it ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.launchers import SINGLE
from ailurus.protocol.program import interpreter
from ailurus.regular import open_regular
from pilot import blame
from pilot.attempt import Attempt, Signallable
from pilot.elastic import ElasticPayload
from pilot.files import granted
from pilot.items.coming import Place
from pilot.items.run import run_items
from pilot.launching import RemoteShells, job_node, planned, variables
from pilot.node import gpus
from pilot.node.at_once import on_all
from pilot.node.containers import user_name
from pilot.node.shares import Placement, Slot
from pilot.node_ports import Exit, Explanation, Node, Plan
from pilot.payload import Part, Payload
from pilot.ports import PATH, Check, Image, JobError, ProcessEnd, Sandbox
from pilot.workdir import SCRIPT, Workdir, size_of, tail_of

if TYPE_CHECKING:
    from pilot.kit import Kit

TAIL_BYTES, TAIL_LINES = 4000, 20
SITE_SIGNALS = frozenset(
    {
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGKILL,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGXCPU,
    }
)
TOGETHER_S = 1.0
"""A batch system that ends a pilot signals all its processes, and the payload may be the first to
go."""


class Outcome(Struct, frozen=True, kw_only=True):
    """How a payload ended."""

    exit_code: int
    """As a shell says it: 128 + n after signal n."""
    error: JobError | None = None


def run(attempt: Attempt, work: Workdir, placement: Placement, kit: Kit) -> Outcome:
    """Run the payload in its slots; returns when it has ended and nothing of it is left."""
    nodes = [kit.nodes[slot.node] for slot in placement]
    attempt.host = "" if nodes[0] is kit.node else nodes[0].name
    argv = _argv(attempt, work)
    alone = len(nodes) == 1
    seen = [job_node(slot, node, alone=alone) for slot, node in zip(placement, nodes, strict=True)]
    plan = planned(attempt.spec, attempt.name, argv, seen, work)

    def place(slots: Placement, check: Check) -> list[Part]:
        images = _images(attempt, [kit.nodes[slot.node] for slot in slots], kit, check)
        return [
            _part(attempt, work, slot, kit, plan, image)
            for slot, image in zip(slots, images, strict=True)
        ]

    parts = place(placement, attempt.check)
    payload = Payload(attempt.name, attempt.spec, parts)
    shells = RemoteShells(
        payload, parts if attempt.spec.launcher != SINGLE and len(parts) > 1 else ()
    )
    elastic = plan.elastic and ElasticPayload(
        attempt, payload, shells, plan.elastic, work, kit, place
    )

    def start() -> Signallable:
        payload.begin(plan.argv, str(work.stdout), str(work.stderr))
        return elastic or payload

    began = kit.clock.monotonic()
    try:
        if attempt.spec.payloads is not None:
            return _items(attempt, work, argv, [*zip(placement, parts, strict=True)], kit, place)
        devices = [gpus.uuids(slot.gpus) for slot in placement]
        with kit.supervisor.watching(attempt, work, nodes, devices), shells:
            granted.write(attempt.credentials, work)
            with elastic.following() if elastic else nullcontext():
                attempt.start_payload(start)
                _wait(payload.over, attempt, work, kit)
                attempt.payload_ended()
    finally:
        for part in payload.parts:
            part.node.clear(attempt.name)
    assert payload.exit is not None  # noqa: S101 - it is over
    ended = payload.exit.process
    attempt.usage = replace(
        attempt.usage,
        cpu_s=round(max(attempt.usage.cpu_s, ended.cpu_s), 3),
        wall_s=round(ended.at - began, 3),
        max_rss_kb=max(attempt.usage.max_rss_kb, ended.max_rss_kb),
        rss_kb=0,
        processes=0,
        gpu_memory_mb=0,
    )
    return _outcome(attempt, work, payload.exit)


def _items(
    attempt: Attempt,
    work: Workdir,
    argv: Sequence[str],
    places: Sequence[tuple[Slot, Part]],
    kit: Kit,
    place: Place,
) -> Outcome:
    """Run the items that the job carries."""
    began = kit.clock.monotonic()
    devices = [gpus.uuids(slot.gpus) for slot, _ in places]
    with kit.supervisor.watching(attempt, work, [part.node for _, part in places], devices):
        granted.write(attempt.credentials, work)
        with _renewing(attempt, work, kit):
            run_items(attempt, argv, work, places, kit, place)
    wall_s = round(kit.clock.monotonic() - began, 3)
    attempt.usage = replace(attempt.usage, wall_s=wall_s, rss_kb=0, processes=0)
    return Outcome(exit_code=0, error=attempt.stopped)


def needs_network(spec: JobSpec) -> bool:
    """Processes on several nodes reach each other over the network; items are each on one."""
    return spec.network or (spec.nodes > 1 and spec.payloads is None)


def _images(
    attempt: Attempt, nodes: Sequence[Node], kit: Kit, check: Check
) -> Sequence[Image | None]:
    """The job's image as each of the nodes has it. Raises JobError."""
    if attempt.image is None:
        return [None] * len(nodes)

    def there(node: Node, check: Check) -> Image | None:
        return attempt.image if node is kit.node else node.prepare(attempt.spec, check)

    return on_all([partial(there, node) for node in nodes], check)


def _part(
    attempt: Attempt, work: Workdir, slot: Slot, kit: Kit, plan: Plan, image: Image | None
) -> Part:
    """The payload's place in a slot."""
    spec, node = attempt.spec, kit.nodes[slot.node]
    tmp = str(work.tmp)
    if not granted.granted(attempt.credentials):
        # Credentials are written to the attempt's own, which all nodes see.
        tmp = node.tmp(attempt.name, tmp)
    wide = spec.nodes > 1
    inside = kit.node.container.of(spec).tmp(tmp)
    name = node.name if wide else ""
    more = variables(plan, work, name, inside) if spec.launcher != SINGLE else {}
    box = Sandbox(
        directory=str(work.directory),
        tmp=tmp,
        environment=environment(attempt, slot, work, inside, more),
        memory_mb=spec.memory_mb,
        network=needs_network(spec),
        host=name,
        devices=gpus.files(slot.gpus, slot.need.gpu_share),
        image=image,
        own=str(work.path),
    )
    return Part(node, box, slot.cpus)


def _wait(over: threading.Event, attempt: Attempt, work: Workdir, kit: Kit) -> None:
    """Wait for the payload's end, and meanwhile renew the credentials that it was granted. That one
    cannot be renewed ends no payload: it may need it no more."""
    if not granted.granted(attempt.credentials):
        kit.clock.wait(over)
        return
    while not kit.clock.wait(over, kit.delegation.next_look_s(attempt.credentials)):
        try:
            attempt.credentials = kit.delegation.fetch(attempt)
            granted.write(attempt.credentials, work)
        except JobError as error:
            attempt.note(f"credentials not renewed: {error}")


@contextmanager
def _renewing(attempt: Attempt, work: Workdir, kit: Kit) -> Iterator[None]:
    """Renew the credentials that the payload was granted, as `_wait` does, in a thread."""
    if not granted.granted(attempt.credentials):
        yield
        return
    over = threading.Event()
    thread = threading.Thread(
        target=_wait,
        args=(over, attempt, work, kit),
        name=f"credentials-{attempt.name}",
        daemon=True,
    )
    try:
        thread.start()
    except RuntimeError:
        raise JobError(Code.INTERNAL, "the pilot cannot start a thread", transient=True) from None
    try:
        yield
    finally:
        over.set()
        thread.join()


def environment(
    attempt: Attempt, slot: Slot, work: Workdir, tmp: str, more: Mapping[str, str]
) -> Mapping[str, str]:
    """The payload's environment, from nothing: the pilot's own is not its affair. `tmp`: where it
    finds its /tmp; `more`: what it has of its launcher."""
    cores = str(slot.need.cores)
    ours = {
        "PATH": PATH,
        "HOME": str(work.directory),
        "TMPDIR": tmp,
        "USER": user_name(),
        "LOGNAME": user_name(),
        "LANG": "C.UTF-8",
        "AILURUS_JOB_ID": str(attempt.id[0]),
        "AILURUS_ATTEMPT": attempt.name,
        "PANDAID": str(attempt.id[0]),
        "AILURUS_CORES": cores,
        "ATHENA_CORE_NUMBER": cores,
        "OMP_NUM_THREADS": cores,
        "OPENBLAS_NUM_THREADS": cores,
        "MKL_NUM_THREADS": cores,
        "NUMEXPR_NUM_THREADS": cores,
    }
    # Last what no job chooses: which GPUs are its own, and by what its processes are found.
    fixed = {**gpus.visible(slot.gpus, slot.need.gpu_share), "AILURUS_ATTEMPT": attempt.name}
    found = granted.variables(attempt.credentials, tmp)
    return {**ours, **found, **more, **attempt.spec.environment, **fixed}


def _argv(attempt: Attempt, work: Workdir) -> list[str]:
    """The payload's command line. A script is given to the interpreter of its first line, so that
    it runs where the directory is mounted noexec; by a shell, so that an interpreter that is
    missing is an exit code of the payload's and no failure of the container."""
    if not attempt.spec.script:
        return ["/bin/sh", "-c", attempt.spec.command]
    try:
        with os.fdopen(work.create(SCRIPT, 0o700), "wb") as file:
            file.write(attempt.spec.script.encode())
    except OSError as error:
        raise blame.job_error(error, "cannot write the job's script", blame.Target.NODE) from None
    path = str(work.directory / SCRIPT)
    if words := interpreter(attempt.spec.script):
        return ["/bin/sh", "-c", 'exec "$@"', SCRIPT, *words, path]
    return ["/bin/sh", path]


def _outcome(attempt: Attempt, work: Workdir, ended: Exit) -> Outcome:
    process = ended.process
    exit_code = process.exit_code if process.exit_code >= 0 else 128 - process.exit_code
    error = attempt.stopped
    if error is None and exit_code - 128 in SITE_SIGNALS:
        error = attempt.stopped_within(TOGETHER_S)
    if error is None and (process.errno or exit_code):
        found = ended.explain()
        error = found.error or blame.ending(_evidence(attempt, work, process, exit_code, found))
    return Outcome(exit_code=exit_code, error=error)


def _evidence(
    attempt: Attempt, work: Workdir, ended: ProcessEnd, exit_code: int, found: Explanation
) -> blame.Evidence:
    last = (line for line in reversed(stderr_tail(work).splitlines()) if line.strip())
    return blame.Evidence(
        exit_code=exit_code,
        errno=ended.errno,
        before=ended.before,
        runtime=found.runtime,
        ran=found.ran,
        oom_kills=found.oom_kills,
        where=found.where,
        noexec=exit_code == blame.NOT_EXECUTABLE and not work.executes(),
        used_kb=max(attempt.usage.max_rss_kb, attempt.usage.max_pss_kb),
        requested_kb=attempt.spec.memory_mb * 1024,
        last_words=next(last, "")[:300],
    )


def stderr_tail(work: Workdir) -> str:
    """The last lines of the payload's stderr."""
    if not size_of(work.stderr):
        return ""
    try:
        fd = open_regular(work.stderr)
    except (OSError, ValueError):
        return ""
    try:
        _, text = tail_of(fd, TAIL_BYTES)
    finally:
        os.close(fd)
    lines = text.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
