"""The payload: from a slot to how it ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from pilot.held import Held
from pilot.ports import Box, Ended, JobError, Order
from pilot.slots import Slot
from pilot.workdir import Workdir

if TYPE_CHECKING:
    from pilot.kit import Kit

TAIL_BYTES, TAIL_LINES = 4000, 20
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
SCRIPT = "ailurus_script"
BY_A_SITE = frozenset(
    {signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU}
)
TOGETHER_S = 1.0
"""A batch system that ends a pilot signals all its processes, and the payload may be the first to go."""


class Outcome(Struct, frozen=True, kw_only=True):
    """How a payload ended."""

    exit_code: int
    """As a shell says it: 128 + n after signal n."""
    error: JobError | None = None


def run(held: Held, work: Workdir, slot: Slot, kit: Kit) -> Outcome:
    """Run the payload in `slot`; returns when it has ended and nothing of it is left."""
    box = Box(
        directory=str(work.directory),
        tmp=str(work.tmp),
        environment=environment(held, work, slot, kit),
        network=held.spec.network,
        gpus=slot.gpus,
    )
    order = Order(
        argv=kit.container.wrap(_argv(held, work), box),
        environment=box.environment,
        directory=box.directory,
        stdout=str(work.stdout),
        stderr=str(work.stderr),
        cpus=slot.cpus,
        depth=kit.container.depth,
    )
    over = threading.Event()
    results: list[Ended] = []

    def done(ended: Ended) -> None:
        results.append(ended)
        over.set()

    began = time.monotonic()
    with kit.supervisor.watching(held, work):
        held.runs(lambda: (kit.spawner, kit.spawner.spawn(order, done)))
        over.wait()
        held.ran()
    ended = results[0]
    held.usage = replace(
        held.usage,
        cpu_s=round(max(held.usage.cpu_s, ended.cpu_s), 3),
        wall_s=round(ended.at - began, 3),
        max_rss_kb=max(held.usage.max_rss_kb, ended.max_rss_kb),
        rss_kb=0,
        processes=0,
    )
    return _outcome(held, work, ended, kit)


def environment(held: Held, work: Workdir, slot: Slot, kit: Kit) -> Mapping[str, str]:
    """The payload's environment, from nothing: the pilot's own is not its affair."""
    cores = str(slot.need.cores)
    ours = {
        "PATH": PATH,
        "HOME": str(work.directory),
        "TMPDIR": kit.container.tmp(str(work.tmp)),
        "LANG": "C.UTF-8",
        "AILURUS_JOB_ID": str(held.id[0]),
        "AILURUS_ATTEMPT": held.name,
        "PANDAID": str(held.id[0]),
        "AILURUS_CORES": cores,
        "ATHENA_CORE_NUMBER": cores,
        "OMP_NUM_THREADS": cores,
        "OPENBLAS_NUM_THREADS": cores,
        "MKL_NUM_THREADS": cores,
        "NUMEXPR_NUM_THREADS": cores,
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, slot.gpus)),
    }
    return {**ours, **held.spec.environment, "AILURUS_ATTEMPT": held.name}


def _argv(held: Held, work: Workdir) -> list[str]:
    if not held.spec.script:
        return ["/bin/sh", "-c", held.spec.command]
    fd = work.create(SCRIPT, 0o700)
    with os.fdopen(fd, "w") as file:
        file.write(held.spec.script)
    path = str(work.directory / SCRIPT)
    return [path] if held.spec.script.startswith("#!") else ["/bin/sh", path]


def _outcome(held: Held, work: Workdir, ended: Ended, kit: Kit) -> Outcome:
    exit_code = ended.exit_code if ended.exit_code >= 0 else 128 - ended.exit_code
    error = held.stopped
    if error is None and exit_code - 128 in BY_A_SITE:
        error = held.stopped_within(TOGETHER_S)
    if error is None and ended.errno:
        error = _not_started(ended.errno)
    elif error is None and exit_code:
        error = _failed(exit_code, stderr_tail(work), kit)
    return Outcome(exit_code=exit_code, error=error)


def _not_started(errno: int) -> JobError:
    if errno == 5:
        return JobError(
            Code.INTERNAL, "the pilot's guardian died, and all payloads with it", transient=True
        )
    return JobError(
        Code.PAYLOAD_FAILED,
        f"the payload could not be started: {os.strerror(errno)}",
        remedy="is the command too long, or the script's #! line wrong?",
    )


def _failed(exit_code: int, tail: str, kit: Kit) -> JobError:
    if kit.container.private and tail.startswith("bwrap: "):
        return JobError(Code.CONTAINER_FAILED, tail.splitlines()[0])
    if exit_code == 137 and kit.supervisor.node_ran_out_of_memory():
        return JobError(
            Code.OUT_OF_MEMORY,
            "the node ran out of memory and its kernel killed the payload",
            remedy="ask for more `memory`",
        )
    how = f"signal {exit_code - 128}" if 128 < exit_code < 193 else f"exit code {exit_code}"
    said = next((line for line in reversed(tail.splitlines()) if line.strip()), "")
    return JobError(
        Code.PAYLOAD_FAILED,
        f"the payload ended with {how}" + (f"; its last words: {said[:300]}" if said else ""),
        remedy="its stderr and log.tgz say more",
    )


def stderr_tail(work: Workdir) -> str:
    """The last lines of the payload's stderr."""
    from pilot.workdir import tail_of

    try:
        fd = os.open(work.stderr, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        _, text = tail_of(fd, TAIL_BYTES)
    finally:
        os.close(fd)
    lines = text.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
