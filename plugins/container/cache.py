"""Images of registries, fetched once a node by `apptainer pull`.

CACHE/images/DIGEST.sif      an image, by the reference's own digest or by a hash of the reference
CACHE/locks/DIGEST           held while it is fetched, shared while a pilot uses it; its time is
                             that of the last use

All pilots of one user on a node share the directory, which nobody else may write to. A reference
with a digest (`@sha256:…`) is fetched once and never again; a tag is what it was when it was
fetched, until the image is evicted by age.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ailurus.protocol.errors import Code
from pilot.blame import Target, job_error
from pilot.ports import (
    Check,
    ContainerSetup,
    Image,
    ImageCache,
    JobError,
    ProcessEnd,
    ProcessSpec,
    Spawner,
)
from plugins.container import images
from plugins.container.mounts import PROGRAMS

PULL_S = 3600.0
_REFERENCE = re.compile(r"(?:docker|oras)://[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_SAID_BYTES = 2000
_LOOK_S = 0.2


class Cache:
    """The images that jobs of a site may name: by path, and by reference where it has a cache."""

    def __init__(self, setup: ContainerSetup) -> None:
        self._roots, self._cache = setup.images, setup.cache
        self._spawner, self._apptainer = setup.spawner, setup.apptainer
        self._held: dict[Path, int] = {}
        self._lock = threading.Lock()

    def allowed(self, name: str) -> None:
        """Raise JobError for an image that no job may name here."""
        if not images.is_reference(name):
            images.allowed(name, self._roots)
            return
        cache = self._cache if self._spawner is not None else None
        registries = () if cache is None else cache.registries
        if not _REFERENCE.fullmatch(name) or not any(map(name.startswith, registries)):
            raise JobError(
                Code.NOT_IMPLEMENTED,
                f"this site fetches no image {name}"
                + (f": only from {', '.join(registries)}" if registries else ""),
                field="container",
                remedy="name a path of the site's images, or let the site list the registry in "
                "`container.registries`",
            )

    def image(self, name: str, check: Check) -> Image:
        """The image, on this node. Raises JobError."""
        self.allowed(name)
        if not images.is_reference(name):
            return images.located(name, self._roots)
        assert self._cache is not None  # noqa: S101 - else no reference is allowed
        assert self._spawner is not None  # noqa: S101
        try:
            return self._fetched(name, self._cache, self._spawner, check)
        except OSError as error:
            raise job_error(
                error, f"cannot use the cache of images {self._cache.directory}", Target.NODE,
                field="container",
            ) from None  # fmt: skip

    def _fetched(self, name: str, cache: ImageCache, spawner: Spawner, check: Check) -> Image:
        place = _place(Path(cache.directory), name)
        with self._lock:
            held = self._held.get(place)
        if held is None:
            held = _locked(place, check)
            try:
                if not place.exists():
                    _pull(apptainer(self._apptainer), spawner, name, place, check)
                fcntl.flock(held, fcntl.LOCK_SH)
            except BaseException:
                os.close(held)
                raise
            with self._lock:
                if place in self._held:  # another job of this pilot was as quick
                    os.close(held)
                else:
                    self._held[place] = held
        # Not the image's own time, by which it is told from one that was put in its place.
        os.utime(_lock_file(place))
        evict(cache)
        return images.located(str(place), [str(place.parent)])


def _place(directory: Path, name: str) -> Path:
    for part in ("images", "locks"):
        (directory / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory / "images" / f"{hashlib.sha256(name.encode()).hexdigest()}.sif"


def _lock_file(place: Path) -> Path:
    return place.parent.parent / "locks" / place.stem


def _locked(place: Path, check: Check) -> int:
    """The lock of an image, held alone. Waits for another pilot that fetches it."""
    lock = os.open(_lock_file(place), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if place.exists():  # it is there, and in use
                    fcntl.flock(lock, fcntl.LOCK_SH)
                    return lock
                check()
                time.sleep(_LOOK_S)
            else:
                return lock
    except BaseException:
        os.close(lock)
        raise


def apptainer(directory: str) -> str | None:
    """The command of Apptainer or Singularity, in `directory` or where programs are; None: it is
    not on this node."""
    path = f"{directory}:{PROGRAMS}" if directory else PROGRAMS
    return shutil.which("apptainer", path=path) or shutil.which("singularity", path=path)


def pull_command(program: str, name: str, into: Path) -> Sequence[str]:
    """How an image is fetched: whole into a file that is not there."""
    return [program, "--silent", "pull", "--disable-cache", "--force", str(into), name]


def _pull(program: str | None, spawner: Spawner, name: str, place: Path, check: Check) -> None:
    """Fetch an image to `place`, whole or not at all. The directory's lock is held."""
    if program is None:
        raise JobError(
            Code.APPTAINER_MISSING,
            f"this node has no Apptainer, which fetches the image {name}",
            field="container",
            remedy="install Apptainer or name its directory in `container.apptainer`, or put the image "
            "into one of `container.images`",
        )
    part, said = place.with_suffix(f".part-{os.getpid()}"), place.with_suffix(".log")
    fetching = ProcessSpec(
        argv=pull_command(program, name, part),
        environment={"PATH": PROGRAMS, "HOME": str(place.parent), "TMPDIR": str(place.parent)},
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
        part.rename(place)
    finally:
        part.unlink(missing_ok=True)
        said.unlink(missing_ok=True)


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


def evict(cache: ImageCache) -> list[Path]:
    """Remove images that nobody uses: those too old, then the longest unused while there are too
    many bytes. Returns them."""
    gone: list[Path] = []
    known = []
    for path in Path(cache.directory, "images").glob("*.sif"):
        with suppress(OSError):
            known.append((_lock_file(path).stat().st_mtime, path.stat().st_size, path))
    known.sort()
    total = sum(size for _, size, _ in known)
    now = time.time()
    for used, size, path in known:
        if total <= cache.most_bytes and now - used <= cache.most_s:
            break
        if _removed(path):
            gone.append(path)
            total -= size
    return gone


def _removed(path: Path) -> bool:
    """Remove an image unless somebody uses it."""
    try:
        lock = os.open(
            _lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
