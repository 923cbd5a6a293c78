"""Apptainer (or Singularity): images of jobs as root file systems, without bubblewrap.

Its command runs in an environment of ours, so neither a loader nor Apptainer (`APPTAINERENV_*`)
obeys anything of a job's. The payload's variables are in a script that the payload's own shell runs
inside; so are the image's own scripts (`/.singularity.d/env`), and its runscript is not run at all.

Whether the payload began is told by that script, on a descriptor which it closes before the payload
starts. If it did not, a container of this node's own system is tried: where that works, the image
is at fault, and else the node. Nothing that a payload writes is read.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from pilot.blame import Target, job_error
from pilot.ports import (
    PATH,
    Check,
    Container,
    ContainerSetup,
    Image,
    JobError,
    Runtime,
    Sandbox,
)
from plugins.container import driver, shown
from plugins.container.cache import Cache
from plugins.container.driver import PLACE
from plugins.container.images import unusable
from plugins.container.mounts import PROGRAMS
from plugins.container.pulls import apptainer

STATUS_FD = 3
_BEGAN = "began"
_START = "/.ailurus/start"
_TMP = ("/tmp", "/var/tmp")  # noqa: S108 - inside
_PROC = ("sys", "fs", "acpi", "sysrq-trigger")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What a shell does not let anybody set; a payload's own programs have no use for them.
_READONLY = frozenset({"BASHOPTS", "SHELLOPTS", "UID", "EUID", "PPID", "BASH_VERSINFO"})
_SEPARATORS = re.compile(r'[:,"\\\s]')
"""What means something to `--bind` and `--security`."""
_LOOP_CTL_GET_FREE = 0x4C82
_TRY_S = 60
_CLONE_NEWUSER = 0x10000000
_KEYRINGS = ("add_key", "keyctl", "request_key")
_MOUNTS = (
    "mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsmount",
    "move_mount",
    "open_tree",
    "setns",
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")


class Apptainer(Container):
    """Runs payloads in images, by `apptainer exec`."""

    name = "apptainer"
    private = True
    # The command, its starter twice, and the first process of the container.
    depth = 4
    status_fd = STATUS_FD

    def __init__(self, setup: ContainerSetup) -> None:
        self._setup, self._cache = setup, Cache(setup)
        self._program = program(setup)
        self._own = Path(setup.directory, "apptainer")
        for field, path in _bound(setup):
            if _SEPARATORS.search(path):
                raise AilurusError(
                    f"Apptainer takes no directory of such a name: {path}",
                    field=field,
                    remedy="another name, without colons, commas, quotes and blanks",
                )
        self._own.mkdir(mode=0o700)
        (self._own / "filter.json").write_bytes(msgspec.json.encode(_filter(setup)))
        if why := self._tried():
            raise AilurusError(
                f"Apptainer makes no container here: {why}",
                remedy="does `apptainer exec` work for this user? Or `container: {default: auto}`",
            )

    def ran(self, status: str) -> bool:
        return _BEGAN in status

    def blame(self, image: Image | None, exit_code: int) -> JobError | None:
        if (lost := shown.unseen(self._setup.software)) is not None:
            return lost
        if image is None:
            return None
        if image.offset >= 0 and not _has_loop_device():
            return JobError(
                Code.NO_LOOP_DEVICE,
                f"this node has no loop device for the image {image.path}",
                field="container",
                remedy="raise max_loop of its kernel's module loop, or install bubblewrap there",
                transient=True,
            )
        if self._tried():
            return None
        why = f"Apptainer ended with exit code {exit_code} before the payload began"
        return unusable(image.path, why)

    def tmp(self, directory: str) -> str:
        return _TMP[0]

    def accepts(self, spec: JobSpec) -> None:
        if not spec.container:
            raise JobError(
                Code.NOT_IMPLEMENTED,
                "this site runs payloads in images only",
                field="container",
                remedy="name an image, or `container: {default: auto}` in the site file",
            )
        if spec.network and not self._setup.network:
            raise JobError(
                Code.NOT_IMPLEMENTED,
                "this site gives payloads no network (`container.network` of its site file)",
                field="network",
                remedy="run it at another site, or bring what it fetches as inputs",
            )
        self._cache.allowed(spec.container)

    def prepare(self, spec: JobSpec, check: Check) -> Image | None:
        return self._cache.image(spec.container, check)

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Runtime:
        assert box.image is not None  # noqa: S101 - other jobs are not accepted
        # A job of several nodes has its directory on all of them, and on each many processes with
        # one environment.
        script = Path(box.own, f"start-{box.host}" if box.host else "start")
        try:
            if not (box.host and script.exists()):
                text = start_script(box.environment, finds_driver=_has_nvidia(box))
                new = script.with_name(f"{script.name}.{threading.get_native_id()}")
                new.write_text(text, "utf-8", "surrogateescape")
                new.chmod(0o644)
                new.rename(script)
        except OSError as error:
            raise job_error(error, "cannot write the start of the payload", Target.NODE) from None
        return Runtime(
            argv=command(self._program, self._setup, box, script, [*argv]),
            environment=self._environment(),
        )

    def _environment(self) -> Mapping[str, str]:
        """Of Apptainer's own command: its helpers, and a home without anybody's configuration."""
        return {"PATH": PROGRAMS, "HOME": str(self._own), "LANG": "C.UTF-8"}

    def _tried(self) -> str:
        """Run `true` of this node's own system in a container; what is wrong, or nothing."""
        root, work = self._own / "system", self._own / "work"
        for directory in (
            root,
            work,
            *(root / name for name in ("dev", "proc", "sys", "tmp", "etc")),
        ):
            directory.mkdir(exist_ok=True)
        for path in map(Path, _SYSTEM):
            if path.is_dir():
                (root / path.name).mkdir(exist_ok=True)
        box = Sandbox(
            directory=str(work), tmp=str(work), environment={}, memory_mb=1,
            image=Image(path=str(root), mark=""), own=str(self._own),
        )  # fmt: skip
        script = self._own / "start"
        script.write_text(start_script({}), "utf-8")
        show = tuple(path for path in _SYSTEM if Path(path).is_dir())
        setup = msgspec.structs.replace(self._setup, software=show, show=())
        try:
            tried = subprocess.run(
                command(self._program, setup, box, script, ["/bin/true"]),
                env={**self._environment()}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
                timeout=_TRY_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        said = tried.stderr.decode("utf-8", "replace").strip().splitlines()
        return (said[-1] if said else f"exit code {tried.returncode}") if tried.returncode else ""


def _bound(setup: ContainerSetup) -> Iterator[tuple[str, str]]:
    """What is mounted in each container, with the key of the site file that names it."""
    yield "paths.work", setup.directory
    yield from (("software", path) for path in setup.software)
    yield from (("container.show", path) for path in setup.show)


def _has_loop_device() -> bool:
    """Whether root, who mounts a SIF by one, finds a loop device; other users need none."""
    if os.geteuid() != 0:
        return True
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        finally:
            os.close(control)
    except OSError:
        return False
    return True


def program(setup: ContainerSetup) -> str:
    """Where Apptainer is. Raises AilurusError if it is not on this node."""
    if found := apptainer(setup.apptainer):
        return found
    raise AilurusError(
        "there is no Apptainer on this node",
        field="container.default",
        remedy="install it, or name its directory in `container.apptainer` of the site file",
    )


def command(
    program: str, setup: ContainerSetup, box: Sandbox, script: Path, argv: Sequence[str]
) -> list[str]:
    """The command that runs `argv` in the image of `box`, after `script`."""
    assert box.image is not None  # noqa: S101 - there is nothing to run without
    words = [program, "--silent", "exec", "--containall", "--pid", "--ipc", "--uts", "--cleanenv"]
    words += ["--no-home", "--no-eval", "--no-mount", "home,tmp,cwd,hostfs,bind-paths,sys"]
    words += ["--hostname", box.host or shown.HOST_NAME, "--pwd", box.directory]
    words += ["--security", f"seccomp:{setup.directory}/apptainer/filter.json"]
    if os.geteuid() == 0:
        words.append("--no-privs")
    if not box.network:
        words += ["--net", "--network", "none"]
    binds = [f"{box.tmp}:{place}" for place in _TMP]
    binds += [f"{box.directory}:{box.directory}", f"{script}:{_START}:ro"]
    binds += [
        f"{path}:{path}:ro" for path in (*setup.software, *_there(setup.show), *_there(shown.SYS))
    ]
    # By names of PCI devices, which have colons, and so no word of --bind's.
    for path in _there([*shown.interfaces()]) if box.host else ():
        words += ["--mount", f'type=bind,"src={path}","dst={path}",ro']
    binds += [f"/proc/{name}:/proc/{name}:ro" for name in _PROC if Path("/proc", name).exists()]
    binds += [f"/dev/null:{path}:ro" for path in shown.hidden()]
    # Not by --nv and --rocm, which show every GPU of the node.
    binds += [f"{device}:{device}" for device in _there(box.devices)]
    if _has_nvidia(box):
        binds += [f"{path}:{place}:ro" for path, place in driver.nvidia().items()]
    for bind in binds:
        words += ["--bind", bind]
    return [*words, box.image.path, "/bin/sh", _START, *argv]


def _has_nvidia(box: Sandbox) -> bool:
    return any(device.startswith("/dev/nvidia") for device in box.devices)


def _there(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if Path(path).exists()]


def start_script(environment: Mapping[str, str], *, finds_driver: bool = False) -> str:
    """What the payload's shell runs first: it tells that it began, sets the variables of the job,
    and becomes the payload. An image says where its programs are, unless the job does.

    `finds_driver`: the libraries of a GPU driver are found, after all others.
    """
    plain, other = [], []
    for name, value in environment.items():
        if name in _READONLY or (name, value) == ("PATH", PATH):
            continue
        if _NAME.fullmatch(name):
            plain.append(f"export {name}={shlex.quote(value)}")
        else:
            other.append(shlex.quote(f"{name}={value}"))
    if finds_driver:
        ours = f"${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}{PLACE}"
        plain.append(f'export LD_LIBRARY_PATH="{ours}"')
    last = " ".join(["exec env", *other, '"$@"']) if other else 'exec "$@"'
    tell = f"{{ echo {_BEGAN} >&{STATUS_FD}; }} 2>/dev/null; exec {STATUS_FD}>&-"
    # IFS and PATH change what the lines after them mean: there are none that split or search.
    return "\n".join([tell, *plain, last, ""])


def _filter(setup: ContainerSetup) -> dict[str, object]:
    """System calls that a payload does not have, as on a kernel without them: keyrings, which know
    no container, and the ways to namespaces and mounts of its own. Apptainer knows no errno but
    EPERM, with which libc makes no thread by clone3: so that is left, and mounts nothing either."""
    calls: list[dict[str, object]] = [{"names": [*_KEYRINGS], "action": "SCMP_ACT_ERRNO"}]
    if not setup.user_namespaces:
        new_user = {
            "index": 0,
            "value": _CLONE_NEWUSER,
            "valueTwo": _CLONE_NEWUSER,
            "op": "SCMP_CMP_MASKED_EQ",
        }
        calls += [
            {"names": ["clone", "unshare"], "action": "SCMP_ACT_ERRNO", "args": [new_user]},
            {"names": [*_MOUNTS], "action": "SCMP_ACT_ERRNO"},
        ]  # fmt: skip
    machines = {"x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    machines["aarch64"] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    known = machines.get(os.uname().machine, [])
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": known, "syscalls": calls}
