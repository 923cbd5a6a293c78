#!/usr/bin/env python3
"""Packs a root directory into an image: containers/pack.py DIRECTORY IMAGE.sif

The image depends on what is in the directory alone: files in the order of their names, owned by
root, with one time; the same directory has the same SHA-256, which is printed. Apptainer is not
needed: a SIF is a header, a table of what is in it, and a squashfs. Needs mksquashfs (Debian:
squashfs-tools). SOURCE_DATE_EPOCH is the time, else 0.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import struct
import subprocess
import tempfile
from pathlib import Path

# https://github.com/apptainer/sif: a header of 128 bytes, 48 descriptors of 585 each, then data.
HEADER = struct.Struct("<32s10s3s3s16s8q")
DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")
DESCRIPTORS, DESCRIPTORS_AT, PAGE = 48, 4096, 4096
PARTITION, GROUP, SQUASHFS, PRIMARY_SYSTEM = 0x4004, 0xF0000001, 1, 2
ARCHITECTURE = {"x86_64": b"02\0", "aarch64": b"04\0", "ppc64le": b"07\0"}


def squashed(root: Path, into: Path, time: int) -> None:
    options = ["-noappend", "-all-root", "-no-xattrs", "-no-progress", "-quiet"]
    times = ["-mkfs-time", str(time), "-all-time", str(time)]
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    subprocess.run(["mksquashfs", root, into, *options, *times], check=True, env=environment)


def head(size: int, identity: bytes, time: int) -> bytes:
    """All that stands before a squashfs of `size` bytes."""
    architecture = ARCHITECTURE[platform.machine()]
    data_at = DESCRIPTORS_AT + DESCRIPTORS * DESCRIPTOR.size
    system_at = -(-data_at // PAGE) * PAGE
    header = HEADER.pack(
        b"#!/usr/bin/env run-singularity\n",
        b"SIF_MAGIC",
        b"01",
        architecture,
        identity,
        *(time, time),
        *(DESCRIPTORS - 1, DESCRIPTORS),
        *(DESCRIPTORS_AT, DESCRIPTORS * DESCRIPTOR.size),
        *(data_at, system_at + size - data_at),
    )
    extra = struct.pack("<ii3s", SQUASHFS, PRIMARY_SYSTEM, architecture)
    owner = (0, 0)
    place = (system_at, size, size + system_at - data_at)
    descriptor = DESCRIPTOR.pack(
        *(PARTITION, True, 1, GROUP, 0), *place, *(time, time), *owner, b"system", extra
    )
    return header.ljust(DESCRIPTORS_AT, b"\0") + descriptor.ljust(system_at - DESCRIPTORS_AT, b"\0")


def pack(root: Path, image: Path, time: int) -> str:
    """Write the image; its SHA-256."""
    with tempfile.TemporaryDirectory(dir=image.parent, prefix=".pack-") as scratch:
        system = Path(scratch, "squashfs")
        squashed(root, system, time)
        with system.open("rb") as file:
            identity = hashlib.file_digest(file, "sha256").digest()[:16]
            file.seek(0)
            whole = Path(scratch, "sif")
            with whole.open("wb") as out:
                out.write(head(system.stat().st_size, identity, time))
                while block := file.read(1 << 20):
                    out.write(block)
        whole.chmod(0o755)
        whole.replace(image)
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("image", type=Path)
    args = parser.parse_args()
    print(pack(args.root, args.image, int(os.environ.get("SOURCE_DATE_EPOCH", "0"))))


if __name__ == "__main__":
    main()
