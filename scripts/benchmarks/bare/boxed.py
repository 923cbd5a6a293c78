"""The bare loop in an image: squashfuse in a mount namespace of its own, bwrap a payload.

    python -m benchmarks.bare.boxed IMAGE OFFSET BWRAP PAYLOADS WIDTH [WORD…]

Prints [seconds until the first payload has ended, seconds of the others, CPU seconds of these].
WORDs are for bwrap, in place of the fewest that will do; `ROOT` in them is where the image is.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.bare.pack import Task
from benchmarks.bare.pack import run as bare
from pilot.process.kill import become_subreaper

NEW_USER, NEW_MOUNT, MS_REC_SLAVE = 0x10000000, 0x00020000, (1 << 14) | (1 << 19)


def apart() -> None:
    """Enter a mount namespace, which for an ordinary user takes a user namespace, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(NEW_MOUNT if uid == 0 else NEW_USER | NEW_MOUNT):
        raise OSError(ctypes.get_errno(), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="utf-8")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="utf-8")
    if libc.mount(b"none", b"/", None, MS_REC_SLAVE, None):
        raise OSError(ctypes.get_errno(), "mount")


def mounted(image: str, offset: int, place: Path) -> subprocess.Popen[bytes]:
    """Mount an image at `place`."""
    options = f"ro,nodev,nosuid,offset={offset}"
    process = subprocess.Popen(["squashfuse_ll", "-f", "-o", options, image, str(place)])
    with Path("/proc/self/mounts").open("rb", buffering=0) as mounts:
        changed = select.poll()
        changed.register(mounts, select.POLLPRI | select.POLLERR)
        while f" {place} ".encode() not in mounts.read():
            if process.poll() is not None:
                raise RuntimeError("squashfuse ended")
            changed.poll(50)
            mounts.seek(0)
    return process


FEWEST = (
    "--unshare-all", "--die-with-parent", "--ro-bind", "ROOT", "/", "--proc", "/proc",
    "--dev", "/dev", "--tmpfs", "/tmp",  # noqa: S108
)  # fmt: skip


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def ended() -> None:
    """Wait for what bwrap does not: the first processes of its sandboxes, with what these used."""
    deadline = time.monotonic() + 1
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.01)


def main() -> None:
    image, offset, bwrap, payloads, width, *words = sys.argv[1:]
    become_subreaper()
    apart()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        words = [str(place) if word == "ROOT" else word for word in words or FEWEST]
        task = Task((bwrap, *words, "--", "/bin/true"))
        began = time.perf_counter()
        squashfuse = mounted(image, int(offset), place)
        subprocess.run(task.argv, check=True, env={})
        first = time.perf_counter() - began
        bare([task] * int(width), int(width))
        ended()
        before = cpu_s()
        took = bare([task] * int(payloads), int(width))
        ended()
        spent = cpu_s() - before
        squashfuse.send_signal(signal.SIGTERM)
        squashfuse.wait()
    print(json.dumps([first, took, spent]))


if __name__ == "__main__":
    main()
