"""What payloads see of a node's /etc and /sys: what programs need to run, and nothing secret.

Small files, and directories with few of them, are copied once a pilot into a directory that is
every payload's /etc: mounting each of them would cost every payload 0.1 ms. Other directories are
mounted, and those in which a site changes something while pilots run, so that it shows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ailurus.protocol.errors import Code
from pilot.ports import JobError

HOST_NAME = "payload"
ETC = (
    # the system: users, names, libraries, time
    "alternatives", "debian_version", "group", "host.conf", "inputrc", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "locale.alias", "locale.conf", "localtime", "lsb-release", "machine-id", "magic",
    "magic.mime", "mime.types", "networks", "nsswitch.conf", "os-release", "passwd", "protocols",
    "redhat-release", "rpc", "services", "system-release", "terminfo", "timezone",
    # shells and environment modules
    "bash.bashrc", "bashrc", "environment-modules", "lmod", "modulefiles", "profile", "profile.d",
    # certificates of authorities, cryptography
    "ca-certificates", "crypto-policies", "grid-security/certificates", "grid-security/vomsdir",
    "krb5.conf", "krb5.conf.d", "pki/ca-trust", "pki/java", "pki/tls/cert.pem", "pki/tls/certs",
    "pki/tls/openssl.cnf", "ssl/certs", "ssl/openssl.cnf", "vomses",
    # languages and tools whose own configuration is below /etc, as Debian lays them out
    "gnuplot", "groff", "julia", "paperspecs", "papersize", "perl", "R", "sgml", "xml",
    # graphics, accelerators
    "fonts", "ghostscript", "glvnd", "libibverbs.d", "OpenCL", "vulkan", "X11/rgb.txt", "xdg",
)  # fmt: skip
"""Names below /etc. What only root may read is left out: a payload of root's pilot has root's uid."""
ETC_BEGINS = ("ImageMagick", "java", "jvm", "mpich", "octave", "openmpi", "python", "tex")
"""Such directories carry a version in their name."""
_CHANGING = frozenset((
    "alternatives", "ca-certificates", "crypto-policies", "environment-modules",
    "grid-security/certificates", "grid-security/vomsdir", "krb5.conf.d", "lmod", "modulefiles",
    "pki/ca-trust", "pki/java", "pki/tls/certs", "profile.d", "ssl/certs", "vomses",
))  # fmt: skip
"""Of these, what is mounted however little it has."""
_FEW = 32
"""Entries of a directory that is copied, at any depth."""
SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
"""Processors and their memory, for lscpu, hwloc and OpenMP. Neither cgroups nor other devices."""
_PROC_HIDDEN = ("kcore", "keys", "timer_list", "sched_debug", "latency_stats")
"""Of /proc, what tells of the node."""
_COPIED_BYTES = 1 << 20
_HERE = "/etc"
_INTERFACES = "/sys/class/net"


def etc(directory: Path, user: str, show: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Make `directory` what payloads see as /etc; what to mount read-only, from where to where.

    `user`: what this process's user is called, whose payloads these are. `show`: more paths, of
    which those below /etc count; what this node lacks is left out.
    """
    directory.mkdir(mode=0o755)
    yield str(directory), _HERE
    more = [path.removeprefix(f"{_HERE}/") for path in show if path.startswith(f"{_HERE}/")]
    versions = [name for name in os.listdir(_HERE) if name.startswith(ETC_BEGINS)]  # noqa: PTH208
    names = sorted({*ETC, *more, *versions})
    mounted = {*_CHANGING, *more}
    # Those that have others of these in them.
    mounted |= {str(above) for name in names for above in Path(name).parents}
    for name in names:
        # It may not be here, or be hidden from this user, and so from payloads in any case.
        with suppress(OSError):
            if _placed(f"{_HERE}/{name}", directory / name, mounted=name in mounted):
                yield f"{_HERE}/{name}", f"{_HERE}/{name}"
    know(
        directory / "passwd",
        os.geteuid(),
        f"{user}:x:{os.geteuid()}:{os.getegid()}::/tmp:/bin/sh",
    )
    know(directory / "group", os.getegid(), f"{user}:x:{os.getegid()}:")
    # To be mounted on.
    for name in ("hosts", "resolv.conf", "gai.conf"):
        (directory / name).touch()
    yield from ((path, path) for path in SYS if Path(path).exists())


def hidden() -> list[str]:
    """What is covered in a payload's /proc: of what tells of the node, all that this user may
    read."""
    paths = (f"/proc/{name}" for name in _PROC_HIDDEN)
    return [path for path in paths if os.access(path, os.R_OK)]


def interfaces() -> Iterator[str]:
    """What shows a program its network interfaces: libraries of MPI look for them there."""
    try:
        names = os.listdir(_INTERFACES)  # noqa: PTH208 - names, not paths
    except OSError:
        return
    yield _INTERFACES
    # They are links to devices.
    yield from (os.path.realpath(f"{_INTERFACES}/{name}") for name in names)


def hosts(path: Path, *, network: bool) -> Path:
    """Write the names that need no server: this machine's, the payload's own, and for payloads that
    reach the network what the node knows."""
    text = f"127.0.0.1\tlocalhost localhost.localdomain {HOST_NAME}\n::1\tlocalhost ip6-localhost\n"
    if network:
        with suppress(OSError):
            text += Path("/etc/hosts").read_text("utf-8", "surrogateescape")
    path.write_text(text, "utf-8", "surrogateescape")
    return path


def _placed(source: str, place: Path, *, mounted: bool) -> bool:
    """Copy a small file or directory to `place`; True for a larger one, or a directory that is
    `mounted` in any case, which is to be mounted there."""
    seen = os.stat(source)  # noqa: PTH116 - eighty of them at each start of a pilot
    if stat.S_ISDIR(seen.st_mode):
        place.mkdir(parents=True, exist_ok=True)
        return mounted or not _copied(source, place)
    if not stat.S_ISREG(seen.st_mode) or not seen.st_mode & stat.S_IROTH:
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    if seen.st_size > _COPIED_BYTES and place.name not in ("passwd", "group"):
        place.touch()
        return True
    place.write_bytes(Path(source).read_bytes())
    return False


def _copied(source: str, place: Path) -> bool:
    """Copy what is in a directory, if that is little and anybody may read it; links as they are."""
    entries: list[os.DirEntry[str]] = []
    try:
        if not _few(source, os.stat(source).st_dev, entries):  # noqa: PTH116 - as above
            return False
        for entry in entries:
            copy = Path(f"{place}{entry.path.removeprefix(source)}")
            if entry.is_symlink():
                copy.symlink_to(os.readlink(entry.path))  # noqa: PTH115 - text
            elif entry.is_dir():
                copy.mkdir()
            else:
                copy.write_bytes(Path(entry.path).read_bytes())
    except OSError:
        # It changes just now, or may not be read: half a copy is covered by the mount.
        return False
    return True


def _few(directory: str, device: int, found: list[os.DirEntry[str]]) -> bool:
    """Add all entries below a directory, each behind that it is in; False: there are too many, or
    one is large, not for all to read, a program, of another file system, or special. Raises
    OSError."""
    with os.scandir(directory) as entries:
        for entry in entries:
            found.append(entry)
            if len(found) > _FEW:
                return False
            if entry.is_symlink():
                continue
            seen = entry.stat(follow_symlinks=False)
            if seen.st_dev != device or not seen.st_mode & stat.S_IROTH:
                return False
            if stat.S_ISDIR(seen.st_mode):
                if not _few(entry.path, device, found):
                    return False
            elif not _is_small_data(seen):
                return False
    return True


def _is_small_data(seen: os.stat_result) -> bool:
    small = seen.st_size <= _COPIED_BYTES // _FEW
    return small and stat.S_ISREG(seen.st_mode) and not seen.st_mode & 0o111


def know(path: Path, number: int, line: str) -> bool:
    """Add `line` to a file of accounts unless it has one of that number; whether it was added."""
    known = path.read_bytes().splitlines() if path.exists() else []
    if any(one.split(b":")[2:3] == [b"%d" % number] for one in known):
        return False
    path.write_bytes(b"\n".join([*known, line.encode(), b""]))
    return True


def unseen(software: Sequence[str]) -> JobError | None:
    """Why a payload cannot be shown the site's software; None: it is all there."""
    for path in software:
        try:
            os.listdir(path)  # noqa: PTH208 - a lost mount fails at this, and not at a stat
        except OSError as error:
            return JobError(
                Code.BIND_FAILED,
                f"payloads are to see {path}, and this node cannot show it: {error.strerror}",
                field="software",
                remedy="mount it on this node, or take it off `software` of the site file",
                transient=True,
            )
    return None
