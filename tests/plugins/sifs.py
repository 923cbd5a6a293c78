"""Images for tests: made in milliseconds of busybox and links, good ones and hostile ones."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = (
    "sh", "cat", "chmod", "cp", "cut", "dd", "echo", "env", "find", "grep", "head", "id", "ls", "ln", "mkdir",
    "mknod", "mount", "ps", "rm", "sed", "sleep", "sort", "test", "touch", "tr", "true", "umount", "unshare", "wc",
)  # fmt: skip
MAGIC, PRIMARY = b"SIF_MAGIC\0", 2
NO_TABLE = 2**64 - 1


def rootfs(directory: Path, busybox: str) -> Path:
    """A root file system in `directory`, with a shell and a few programs."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "usr/bin", "var/tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for name in PROGRAMS:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    for name in ("group", "hosts", "resolv.conf"):
        (directory / "etc" / name).touch()
    (directory / "etc/image").write_text("made for a test\n")
    directory.chmod(0o755)
    return directory


def squashfs(directory: Path, at: Path, *more: str) -> bytes:
    """The root file system in `directory` as squashfs, with `more` files, as mksquashfs -p has
    them."""
    at.unlink(missing_ok=True)
    options = (
        "-noappend",
        "-all-root",
        "-quiet",
        "-no-progress",
        "-processors",
        "1",
        "-noI",
        "-noD",
        "-noF",
        "-noX",
    )
    for line in more:
        options += ("-p", line)
    # Without: its own files would be root's, too.
    kept = [word for word in options if word != "-all-root"] if more else options
    subprocess.run(["mksquashfs", directory, at, *kept], check=True, stdout=subprocess.DEVNULL)
    return at.read_bytes()


def superblock(
    used: int = 128,
    *,
    block: int = 1 << 17,
    log: int = 17,
    compression: int = 1,
    ids: int = 1,
    version: tuple[int, int] = (4, 0),
    tables: tuple[int, ...] = (120, NO_TABLE, 96, 104, NO_TABLE, NO_TABLE),
) -> bytes:
    """The head of a squashfs of `used` bytes, of which 128 are here."""
    head = struct.pack(
        "<4sIIIIHHHHHHQQ6Q",
        b"hsqs", 1, 0, block, 0, compression, log, 0, ids, *version, 0, used, *tables,
    )  # fmt: skip
    return head.ljust(128, b"\0")


def descriptor(
    offset: int,
    size: int,
    *,
    kind: int = 0x4004,
    used: bool = True,
    system: int = 1,
    role: int = PRIMARY,
    machine: bytes = b"00\0",
) -> bytes:
    """One line of a SIF's table."""
    fixed = struct.pack(
        "<i?IIIqqqqqqq128s", kind, used, 1, 1, 0, offset, size, size, 0, 0, 0, 0, b"root"
    )
    return (fixed + struct.pack("<ii3s", system, role, machine)).ljust(585, b"\0")


def header(total: int, at: int = 128, table: int | None = None) -> bytes:
    """The first 128 bytes of a SIF with `total` descriptors at byte `at`."""
    length = total * 585 if table is None else table
    text = (
        b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + MAGIC + b"01\0" + b"02\0" + bytes(16)
    )
    return text + struct.pack("<8q", 0, 0, 0, total, at, length, 4096, 0)[: 128 - len(text)]


def sif(directory: Path, at: Path, *more: str) -> Path:
    """A SIF of the root file system in `directory`, with `more` files, as `squashfs` takes them."""
    data = squashfs(directory, at, *more)
    at.write_bytes(pieces([descriptor(4096, len(data))], data))
    at.chmod(0o644)
    return at


def pieces(table: Sequence[bytes], data: bytes) -> bytes:
    """A SIF of descriptors and of what lies at byte 4096."""
    return (header(len(table)) + b"".join(table)).ljust(4096, b"\0") + data


def busybox() -> str:
    """Where a static busybox is; empty if nowhere."""
    found = shutil.which("busybox")
    return os.fspath(found) if found else ""
