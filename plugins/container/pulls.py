"""Images fetched from registries by Apptainer, and what tells one from another: their digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ailurus.protocol.errors import Code
from pilot.ports import Check, JobError, ProcessEnd, ProcessSpec, Spawner
from plugins.container.mounts import PROGRAMS

PULL_S = 3600.0
_SAID_BYTES = 2000
_PIECE_BYTES = 1 << 22
_LOOK_S = 0.2


def apptainer(directory: str) -> str | None:
    """The command of Apptainer or Singularity, in `directory` or where programs are; None: it is
    not on this node."""
    path = f"{directory}:{PROGRAMS}" if directory else PROGRAMS
    return shutil.which("apptainer", path=path) or shutil.which("singularity", path=path)


def pull_command(program: str, name: str, into: Path) -> Sequence[str]:
    """How an image is fetched: whole into a file that is not there."""
    return [program, "--silent", "pull", "--disable-cache", "--force", str(into), name]


def pull(program: str | None, spawner: Spawner, name: str, place: Path, check: Check) -> str:
    """Fetch an image to `place`, whole or not at all; its SHA-256. Its lock is held alone."""
    if program is None:
        raise JobError(
            Code.APPTAINER_MISSING,
            f"this node has no Apptainer, which fetches the image {name}",
            field="container",
            remedy="install Apptainer or name its directory in `container.apptainer`, or put the image "
            "into one of `container.images`",
        )
    work = place.with_suffix(".new")
    remove(work)
    work.mkdir(mode=0o700)
    part, said = work / "image.sif", work / "log"
    own = {"PATH": PROGRAMS, "HOME": str(work), "TMPDIR": str(work)}
    fetching = ProcessSpec(
        argv=pull_command(program, name, part),
        environment={**network(os.environ), **own},
        stdout=str(said),
        stderr=str(said),
    )
    try:
        if _ended(spawner, fetching, check, name):
            raise JobError(
                Code.IMAGE_NOT_FOUND,
                f"cannot fetch the image {name}: {_last(said)}",
                field="container",
                remedy="is the reference right, and does this node reach the registry?",
                transient=True,
            )
        part.chmod(0o500)
        fetched = digest(part, check)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(place)
        return fetched
    finally:
        remove(work)


def network(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the pilot's own environment, how registries are reached and known."""
    names = (
        "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
    )  # fmt: skip
    return {name: environment[name] for name in names if name in environment}


def remove(directory: Path) -> None:
    """Remove what a fetch left. The directories of an image may be read-only."""

    def opened(_: object, path: str, __: object) -> None:
        with suppress(OSError):
            Path(path).parent.chmod(0o700)
            Path(path).chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
            Path(path).unlink()

    with suppress(OSError):
        shutil.rmtree(directory, onerror=opened)


def _ended(spawner: Spawner, fetching: ProcessSpec, check: Check, name: str) -> int:
    """How it ended: 0 if all is well. Ends it when the job is to stop."""
    over = threading.Event()
    results: list[ProcessEnd] = []

    def done(ended: ProcessEnd) -> None:
        results.append(ended)
        over.set()

    key = spawner.spawn(fetching, done)
    deadline = time.monotonic() + PULL_S
    try:
        while not over.wait(_LOOK_S):
            check()
            if time.monotonic() > deadline:
                raise JobError(
                    Code.STAGE_IN_TIMEOUT,
                    f"the image {name} was not fetched within {PULL_S:.0f} s",
                    field="container",
                )
    except JobError:
        spawner.signal(key, signal.SIGKILL)
        over.wait(_LOOK_S)
        raise
    return results[0].exit_code or results[0].errno


def _last(said: Path) -> str:
    lines = said.read_bytes()[-_SAID_BYTES:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "Apptainer does not say why"


def digest(path: Path, check: Check) -> str:
    """The SHA-256 of a file. Raises JobError when the job is to stop, and OSError."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
            check()
    return found.hexdigest()
