"""Images as roots of bubblewrap's sandboxes: a directory as it is, a SIF through its squashfs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.ports import PATH, Check, ContainerSetup, Image, JobError, Sandbox
from pilot.room_ports import Bind, Closed, Directory, Memory, Only, Step
from plugins.container import shown, underlay
from plugins.container.cache import Cache
from plugins.container.images import has_program, unusable
from plugins.container.mounts import Mounted, Mounts, root_of

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
_NODES = ("/dev", "/etc", "/proc", "/sys/class", "/sys/devices")
"""Of a node, where things are of which payloads see some."""
_ACCOUNTS_BYTES = 1 << 20


class Root(Struct, frozen=True):
    """What a sandbox with an image has for its root."""

    words: list[str]
    etc: tuple[str, ...]
    """Of `ETC`, what the image has as files, so that others can be mounted there."""
    scripts: bool
    """Whether the image sets variables."""
    memory: tuple[str, ...] = ()
    """Of what every payload has in memory beside, what is to be closed when all is mounted."""
    room: int = 0
    """Where bubblewrap sees the image; 0: it is a directory, which is seen anywhere."""


class BoxedImages:
    """The images that this pilot runs in bubblewrap."""

    def __init__(self, setup: ContainerSetup, programs: Sequence[str]) -> None:
        """`programs`: the directories that bubblewrap and its libraries need."""
        self._setup, self._cache, self._programs = setup, Cache(setup), programs
        own = Path(setup.directory)
        self._mounts = Mounts(own, setup.spawner) if setup.spawner is not None else None
        self._roots: dict[Image, Root] = {}
        # What those of mounted images were made of.
        self._mounted: dict[Image, Mounted] = {}
        self._lock = threading.Lock()

    def accepts(self, spec: JobSpec) -> None:
        """Raise JobError for an image that no job may name here."""
        self._cache.allowed(spec.container)

    def ready(self, name: str, check: Check) -> Image:
        """The image `name`, mounted if it has to be. Raises JobError."""
        image = self._cache.image(name, check)
        mounts = self._mounts
        if image.offset < 0:
            with self._lock:
                if image not in self._roots:
                    with _blamed(name):
                        self._roots[image] = self._directory(name, image)
            return image
        if mounts is None:
            raise unusable(name, "this pilot mounts no images")
        mounted = mounts.mount(image, check)
        with self._lock:
            if image not in self._roots or self._mounted.get(image) is not mounted:
                with _blamed(name), mounts.looked_at(mounted):
                    self._roots[image] = self._room(name, image, mounted)
                self._mounted[image] = mounted
        return image

    def root(self, image: Image) -> Root:
        """What `ready` found. Raises JobError if the image is not mounted any more."""
        mounted = self._mounts is None or image.offset < 0 or self._mounts.of(image)
        root = self._roots.get(image)
        if not mounted or root is None:
            raise JobError(
                Code.CONTAINER_FAILED,
                f"the mount of the image {image.path} ended",
                field="container",
                remedy="who kills processes of the pilot's user on this node?",
                transient=True,
            )
        return root

    def _directory(self, name: str, image: Image) -> Root:
        """Each sandbox mounts all of it by itself. Raises as `_blamed` catches, and JobError."""
        seen = Path(image.path)
        _look(name, seen)
        words = underlay.words(underlay.pieces(seen, _places(self._setup)), image.path)
        for source, place in self._accounts(seen):
            words += ["--ro-bind", source, place]
        words += ["--tmpfs", "/sys"]
        for path in _sys():
            words += ["--ro-bind", path, path]
        return Root(words, _etc(seen), _has_scripts(seen), ("/sys", "/"))

    def _room(self, name: str, image: Image, mounted: Mounted) -> Root:
        """Likewise, mounted once for all sandboxes."""
        assert self._mounts is not None  # noqa: S101 - or nothing would be mounted
        seen, root, places = mounted.seen, mounted.path, _places(self._setup)
        _look(name, seen)
        found = underlay.pieces(seen, places)
        steps: list[Step] = [Only(tuple(self._needed()))]
        if found:
            root = root_of(mounted.path)
            files = {path for path in self._setup.show if Path(path).is_file()}
            steps += underlay.steps(found, mounted.path, root, places, files)
        steps += _sys_steps(root)
        steps += [Bind(source, f"{root}{place}") for source, place in self._accounts(seen)]
        if found:
            steps.append(Closed(root))
        words, memory = ["--ro-bind", root, "/"], tuple(_pilots(self._setup) & set(places))
        for place in memory:
            words += ["--tmpfs", place]

        def gone() -> None:
            self._roots.pop(image, None)

        # In its user namespace the user is 0.
        if os.geteuid() != 0:
            words += ["--uid", str(os.geteuid()), "--gid", str(os.getegid())]
        room = self._mounts.room(mounted, steps, gone)
        return Root(words, _etc(seen), _has_scripts(seen), memory, room)

    def _needed(self) -> Iterator[str]:
        """Of the node, what a sandbox with an image is made of."""
        setup = self._setup
        yield from (*self._programs, *_NODES, *setup.software, *setup.show, *_pilots(setup))
        # What names servers may be a link to what a daemon of the node keeps.
        yield from (str(Path("/etc", name).resolve().parent) for name in ETC)

    def _accounts(self, seen: Path) -> list[tuple[str, str]]:
        """The image's users and groups, and the payload's own: what is mounted, and where."""
        own = Path(self._setup.directory, f"etc-{len(self._roots)}")
        own.mkdir(mode=0o755, exist_ok=True)
        lines = {
            "passwd": (
                os.geteuid(),
                f"{self._setup.user}:x:{os.geteuid()}:{os.getegid()}::/tmp:/bin/sh",
            ),
            "group": (os.getegid(), f"{self._setup.user}:x:{os.getegid()}:"),
        }
        found = []
        for name, (number, line) in lines.items():
            theirs = seen / "etc" / name
            if underlay.is_file(seen, f"/etc/{name}") and theirs.stat().st_size <= _ACCOUNTS_BYTES:
                (own / name).write_bytes(theirs.read_bytes())
                if shown.know(own / name, number, line):
                    found.append((str(own / name), f"/etc/{name}"))
        return found


def with_environment(argv: Sequence[str], box: Sandbox) -> tuple[list[str], Sandbox]:
    """A command that first takes the variables of its image, and then those of its job again. The
    image says where its programs are, unless the job does."""
    theirs = box.environment.get("PATH") == PATH
    whose = "image" if theirs else "job"
    environment = {
        name: value for name, value in box.environment.items() if not (theirs and name == "PATH")
    }
    return [SHELL, "-c", PROLOGUE, SHELL, whose, *argv], replace(box, environment=environment)


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """What cannot be looked at is an image that cannot be used."""
    try:
        yield
    except (OSError, underlay.TooMany) as error:
        raise unusable(name, str(error)) from None


def _look(name: str, seen: Path) -> None:
    if not has_program(seen, SHELL):
        raise unusable(name, f"it has no {SHELL}, with which payloads are started")


def _etc(seen: Path) -> tuple[str, ...]:
    return tuple(one for one in ETC if underlay.is_file(seen, f"/etc/{one}"))


def _sys() -> list[str]:
    return [path for path in shown.SYS if Path(path).exists()]


def _sys_steps(root: str) -> list[Step]:
    """What a payload sees of the node's /sys."""
    steps: list[Step] = [Memory(f"{root}/sys")]
    made = {"/", "/sys"}
    for path in _sys():
        for above in (*reversed([str(one) for one in Path(path).parents]), path):
            if above not in made:
                made.add(above)
                steps.append(Directory(f"{root}{above}"))
        steps.append(Bind(path, f"{root}{path}"))
    return [*steps, Closed(f"{root}/sys")]


def _pilots(setup: ContainerSetup) -> set[str]:
    """Where this pilot's directory and those of its jobs are."""
    own = str(Path(setup.directory).parent)
    return {own, setup.jobs or own}


def _places(setup: ContainerSetup) -> list[str]:
    """Where something is mounted in an image, less what is beneath others of these."""
    show = [path for path in setup.show if not path.startswith("/etc/") and Path(path).exists()]
    all_of_them = {*_COVERED, *_TMP, *setup.software, *show, *_pilots(setup)}
    return sorted(
        one for one in all_of_them if not any(one.startswith(f"{top}/") for top in all_of_them)
    )


def _has_scripts(seen: Path) -> bool:
    """Whether an image has scripts that set variables, among its first entries."""
    if not underlay.is_directory(seen, ENVIRONMENT):
        return False
    with suppress(OSError), os.scandir(f"{seen}{ENVIRONMENT}") as entries:
        return any(entry.name.endswith(".sh") for entry in islice(entries, 100))
    return False
