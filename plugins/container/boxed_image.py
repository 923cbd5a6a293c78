"""Images as roots of bubblewrap's sandboxes: a directory as it is, a SIF through its squashfs."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.ports import PATH, Check, ContainerSetup, Image, JobError, Sandbox
from plugins.container import shown, underlay
from plugins.container.cache import Cache
from plugins.container.images import has_program, unusable
from plugins.container.mounts import Mounts

SHELL = "/bin/sh"
"""What starts a payload in an image."""
ENVIRONMENT = "/.singularity.d/env"
"""Where an image has scripts that set its variables. The payload's own shell runs them, inside."""
PROLOGUE = (
    f'ailurus_ours=$(export -p); PATH="${{PATH:-{PATH}}}"; export PATH; '
    f"for ailurus_file in {ENVIRONMENT}/*.sh; "
    'do [ -r "$ailurus_file" ] && . "$ailurus_file"; done; '
    'ailurus_path=$PATH; eval "$ailurus_ours"; [ "$1" = job ] || PATH=$ailurus_path; shift; '
    'unset ailurus_ours ailurus_file ailurus_path; exec "$@"'
)
"""Its first argument: whose PATH counts, the `job`'s or the `image`'s."""
ETC = ("hosts", "resolv.conf", "gai.conf")
_TMP = ("/tmp", "/var/tmp")  # noqa: S108 - inside
_COVERED = ("/proc", "/dev", "/sys")
_ACCOUNTS_BYTES = 1 << 20


class Root(Struct, frozen=True):
    """What a sandbox with an image has for its root."""

    words: list[str]
    etc: tuple[str, ...]
    """Of `ETC`, what the image has as files, so that others can be mounted there."""
    scripts: bool
    """Whether the image sets variables."""
    enter: list[str]
    """The words before bwrap's, for it to see the image."""


class BoxedImages:
    """The images that this pilot runs in bubblewrap."""

    def __init__(self, setup: ContainerSetup) -> None:
        self._setup, self._cache = setup, Cache(setup)
        own = Path(setup.directory)
        self._mounts = Mounts(own, setup.spawner) if setup.spawner is not None else None
        self._roots: dict[Image, Root] = {}
        self._lock = threading.Lock()

    def accepts(self, spec: JobSpec) -> None:
        """Raise JobError for an image that no job may name here."""
        self._cache.allowed(spec.container)

    def ready(self, name: str, check: Check) -> Image:
        """The image `name`, mounted if it has to be. Raises JobError."""
        image = self._cache.image(name, check)
        look: AbstractContextManager[None]
        if image.offset >= 0:
            if self._mounts is None:
                raise unusable(name, "this pilot mounts no images")
            had = self._mounts.of(image)
            mounted = self._mounts.mount(image, check)
            if had is mounted and image in self._roots:
                return image
            seen, source, enter = mounted.seen, mounted.path, mounted.enter
            look = self._mounts.looked_at(mounted)
        else:
            if image in self._roots:
                return image
            seen, source, enter, look = Path(image.path), image.path, [], nullcontext()
        with self._lock, look:
            try:
                self._roots[image] = self._root(name, seen, source, enter)
            except (OSError, underlay.TooMany) as error:
                raise unusable(name, str(error)) from None
        return image

    def root(self, image: Image) -> Root:
        """What `ready` found. Raises JobError if the image is not mounted any more."""
        mounted = self._mounts is None or image.offset < 0 or self._mounts.of(image)
        if not mounted or image not in self._roots:
            raise JobError(
                Code.CONTAINER_FAILED,
                f"the mount of the image {image.path} ended",
                field="container",
                remedy="who kills processes of the pilot's user on this node?",
                transient=True,
            )
        return self._roots[image]

    def _root(self, name: str, seen: Path, source: str, enter: list[str]) -> Root:
        if not has_program(seen, SHELL):
            raise unusable(name, f"it has no {SHELL}, with which payloads are started")
        words = underlay.words(seen, source, _places(self._setup))
        own = Path(self._setup.directory, f"etc-{len(self._roots)}")
        words += _accounts(seen, own, self._setup.user)
        words += ["--tmpfs", "/sys"]
        words += [
            word for path in shown.SYS if Path(path).exists() for word in ("--ro-bind", path, path)
        ]
        # In its user namespace the user is 0.
        if enter and os.geteuid() != 0:
            words += ["--uid", str(os.geteuid()), "--gid", str(os.getegid())]
        etc = tuple(one for one in ETC if underlay.is_file(seen, f"/etc/{one}"))
        return Root(words, etc, _has_scripts(seen), enter)


def with_environment(argv: Sequence[str], box: Sandbox) -> tuple[list[str], Sandbox]:
    """A command that first takes the variables of its image, and then those of its job again. The
    image says where its programs are, unless the job does."""
    theirs = box.environment.get("PATH") == PATH
    whose = "image" if theirs else "job"
    environment = {
        name: value for name, value in box.environment.items() if not (theirs and name == "PATH")
    }
    return [SHELL, "-c", PROLOGUE, SHELL, whose, *argv], replace(box, environment=environment)


def _places(setup: ContainerSetup) -> list[str]:
    """Where something is mounted in an image, less what is beneath others of these."""
    pilots = str(Path(setup.directory).parent)
    show = [path for path in setup.show if not path.startswith("/etc/") and Path(path).exists()]
    all_of_them = {*_COVERED, *_TMP, *setup.software, *show, pilots}
    return sorted(
        one for one in all_of_them if not any(one.startswith(f"{top}/") for top in all_of_them)
    )


def _accounts(seen: Path, own: Path, user: str) -> list[str]:
    """The image's users and groups, and the payload's own."""
    words = []
    lines = {
        "passwd": (os.geteuid(), f"{user}:x:{os.geteuid()}:{os.getegid()}::/tmp:/bin/sh"),
        "group": (os.getegid(), f"{user}:x:{os.getegid()}:"),
    }
    own.mkdir(mode=0o755, exist_ok=True)
    for name, (number, line) in lines.items():
        theirs = seen / "etc" / name
        if underlay.is_file(seen, f"/etc/{name}") and theirs.stat().st_size <= _ACCOUNTS_BYTES:
            (own / name).write_bytes(theirs.read_bytes())
            if shown.know(own / name, number, line):
                words += ["--ro-bind", str(own / name), f"/etc/{name}"]
    return words


def _has_scripts(seen: Path) -> bool:
    """Whether an image has scripts that set variables, among its first entries."""
    if not underlay.is_directory(seen, ENVIRONMENT):
        return False
    with suppress(OSError), os.scandir(f"{seen}{ENVIRONMENT}") as entries:
        return any(entry.name.endswith(".sh") for entry in islice(entries, 100))
    return False
