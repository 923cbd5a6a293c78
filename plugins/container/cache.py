"""Images on this node: by path, or of registries, fetched once a node by `apptainer pull`.

CACHE/images/NAME.sif        an image; NAME is a hash of its reference
CACHE/images/NAME.new/       what is being fetched, and Apptainer's temporary files
CACHE/locks/NAME             held alone while it is fetched, shared while a pilot uses it; its time
                             is that of the last use, its text the SHA-256 of the image

All pilots of one user on a node share the directory, which nobody else may write to; where somebody
else has made it, or may write to it, each keeps images of its own. A reference
with a digest (`@sha256:…`) is fetched once and never again, and each pilot holds the image against
what was fetched before it first uses it; a tag is what it was when it was fetched, until the image
is evicted by age. A path with a digest names a file that must have it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol.errors import Code
from pilot.blame import OSErrorsOn, Target, job_error
from pilot.ports import (
    Check,
    ContainerSetup,
    Image,
    ImageCache,
    JobError,
    Spawner,
)
from plugins.container import images
from plugins.container.pulls import apptainer, digest, pull, remove

_REFERENCE = re.compile(r"(?:docker|oras)://[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_DIGEST = re.compile(r"@sha256:([0-9a-f]{64})\Z")
_OTHERS_WRITE = 0o022
_LOOK_S = 0.2
_log = Log("pilot.container")


class Cache:
    """The images that jobs of a site may name: by path, and by reference where it has a cache."""

    def __init__(self, setup: ContainerSetup) -> None:
        self._roots, self._cache = setup.images, setup.cache
        self._own = str(Path(setup.directory, "images-of-registries"))
        self._spawner, self._apptainer = setup.spawner, setup.apptainer
        self._held: dict[Path, int] = {}
        self._digests: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def allowed(self, name: str) -> None:
        """Raise JobError for an image that no job may name here."""
        if not images.is_reference(name):
            images.allowed(_path(name)[0], self._roots)
            return
        cache = self._cache if self._spawner is not None else None
        registries = () if cache is None else cache.registries
        if not _REFERENCE.fullmatch(name) or not any(_of(name, one) for one in registries):
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
            path, wanted = _path(name)
            image = images.located(path, self._roots)
            return self._verified(image, wanted, check) if wanted else image
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
        try:
            place = _place(Path(cache.directory), name)
        except JobError as error:
            # Whoever has that name by now, to keep images out, keeps none out.
            cache = self._apart(cache, str(error))
            place = _place(Path(cache.directory), name)
        with self._lock:
            held = self._held.get(place)
        if held is None:

            def fetch() -> str:
                program = apptainer(self._apptainer)
                return pull(program, spawner, name, place, cache.most_bytes, check)

            held = _held(place, _DIGEST.search(name) is not None, fetch, check)
            with self._lock:
                # Another job of this pilot was as quick.
                if place in self._held:
                    os.close(held)
                else:
                    self._held[place] = held
        # Not the image's own time, by which it is told from one that was put in its place.
        os.utime(_lock_file(place))
        evict(cache)
        return images.located(str(place), [str(place.parent)])

    def _apart(self, cache: ImageCache, why: str) -> ImageCache:
        """The cache in this pilot's own directory, from now on."""
        if cache.directory != self._own:
            _log.warning("images_not_shared", why=why, instead=self._own)
        self._cache = apart = replace(cache, directory=self._own)
        return apart

    def _verified(self, image: Image, wanted: str, check: Check) -> Image:
        """An image of the site, if it has the digest that its job names. Raises JobError."""
        if image.offset < 0:
            raise images.unusable(image.path, "it is a directory, which has no digest")
        if (image.path, image.mark) not in self._digests:
            with OSErrorsOn(Target.STORAGE, f"cannot read the image {image.path}"):
                self._digests[image.path, image.mark] = digest(Path(image.path), check)
        if (found := self._digests[image.path, image.mark]) != wanted:
            raise JobError(
                Code.IMAGE_UNUSABLE,
                f"the image {image.path} has the digest sha256:{found}, and the job names another",
                field="container",
                remedy="name the digest that `sha256sum` prints for the image you mean",
            )
        return image


def _of(name: str, registry: str) -> bool:
    """Whether a reference is one of a registry's, or of the part of it that the site lists: its
    names end where theirs do."""
    if not name.startswith(registry) or {".", ".."} & {*name.split("/")}:
        return False
    rest = name.removeprefix(registry)
    host_alone = "/" not in registry.partition("://")[2]
    return registry.endswith("/") or rest[:1] == "/" or (rest[:1] in ":@" and not host_alone)


def _path(name: str) -> tuple[str, str]:
    """The path and the digest of an image of the site; empty: it has none."""
    found = _DIGEST.search(name)
    return (name[: found.start()], found[1]) if found else (name, "")


def _place(directory: Path, name: str) -> Path:
    """Where the image `name` is to be. Raises JobError where another user could put one there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    own, above = directory.lstat(), directory.parent.stat()
    if (
        not stat.S_ISDIR(own.st_mode)
        or own.st_uid != os.geteuid()
        or own.st_mode & _OTHERS_WRITE
        or (above.st_mode & _OTHERS_WRITE and not above.st_mode & stat.S_ISVTX)
    ):
        raise JobError(
            Code.CONTAINER_FAILED,
            f"another user could put images into {directory}, the cache of images of this one",
            field="container",
            remedy="who made it? Remove it, or name another directory in `container.cache`",
            transient=True,
        )
    for part in ("images", "locks"):
        (directory / part).mkdir(mode=0o700, exist_ok=True)
    return directory / "images" / f"{hashlib.sha256(name.encode()).hexdigest()}.sif"


def _lock_file(place: Path) -> Path:
    return place.parent.parent / "locks" / place.stem


def _opened_lock(place: Path) -> int:
    return os.open(_lock_file(place), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _locked(lock: int, kind: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        return True
    return False


def _held(place: Path, exact: bool, fetch: Callable[[], str], check: Check) -> int:
    """The shared lock of an image, which is fetched if it is not there. Waits for another pilot
    that fetches it. `exact`: it is held against what was fetched. Raises JobError and OSError."""
    lock = _opened_lock(place)
    intact = not exact
    try:
        while True:
            alone = _locked(lock, fcntl.LOCK_EX)
            if alone and place.exists():
                intact = intact or _as_fetched(place, lock, check)
            if alone and not (place.exists() and intact):
                place.unlink(missing_ok=True)
                os.ftruncate(lock, 0)
                os.pwrite(lock, fetch().encode(), 0)
                intact = True
            # A lock that changes its kind may be another's for a moment, who may evict the image.
            if _locked(lock, fcntl.LOCK_SH):
                if place.exists() and (intact or _as_fetched(place, lock, check)):
                    return lock
                if place.exists():
                    raise _damaged(place)
                fcntl.flock(lock, fcntl.LOCK_UN)
            check()
            time.sleep(_LOOK_S)
    except BaseException:
        os.close(lock)
        raise


def _as_fetched(place: Path, lock: int, check: Check) -> bool:
    return os.pread(lock, 64, 0).decode("ascii", "replace") == digest(place, check)


def _damaged(place: Path) -> JobError:
    return JobError(
        Code.CONTAINER_FAILED,
        f"{place} is not what was fetched, and other pilots use it",
        field="container",
        remedy="look at the disk of this node; the next pilot that is alone with it fetches it anew",
        transient=True,
    )


def evict(cache: ImageCache) -> list[Path]:
    """Remove images that nobody uses: those too old, then the longest unused while there are too
    many bytes; and what fetches left that were killed. Returns the images."""
    gone: list[Path] = []
    known = []
    for path in Path(cache.directory, "images").glob("*.sif"):
        with suppress(OSError):
            known.append((_lock_file(path).stat().st_mtime, path.stat().st_size, path))
    for left in Path(cache.directory, "images").glob("*.new"):
        _alone(left, remove)
    known.sort()
    total = sum(size for _, size, _ in known)
    now = time.time()
    for used, size, path in known:
        if total <= cache.most_bytes and now - used <= cache.most_s:
            break
        if _alone(path, Path.unlink):
            gone.append(path)
            total -= size
    return gone


def _alone(path: Path, act: Callable[[Path], None]) -> bool:
    """Do something with an image unless somebody uses or fetches it."""
    try:
        lock = _opened_lock(path)
    except OSError:
        return False
    try:
        if not _locked(lock, fcntl.LOCK_EX):
            return False
        act(path)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
