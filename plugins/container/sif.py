"""Where the file system of an image begins: the table of a SIF file, or a bare squashfs.

The file comes from anybody: nothing that it says of itself is used before it was held against the
file's own size. https://github.com/sylabs/sif (header and descriptors, version 1).
"""

from __future__ import annotations

import os
import platform
import struct

from msgspec import Struct

HEADER, DESCRIPTOR = 128, 585
MOST_DESCRIPTORS = 512
"""Images have three to ten."""
_MAGIC = b"SIF_MAGIC\0"
_FIRST, _TOTAL = 32, 88
# Of a descriptor: type, whether it is used, offset and size; in its extra bytes the file system,
# the role and the architecture.
_FIELDS = struct.Struct("<i?12xqq")
_EXTRA = struct.Struct("<ii3s")
_EXTRA_AT = 201
_PARTITION, _PRIMARY, _OVERLAY = 0x4004, 2, 4
_SQUASHFS, _SQUASHFS_MAGIC = 1, b"hsqs"
# Of a squashfs: its magic, the size of a block and its logarithm, the compression, how many ids
# there are, the version; how many bytes it has, and where its tables begin: ids, extended
# attributes, inodes, directories, fragments, exports.
_SUPERBLOCK = struct.Struct("<4s8xI4xHH2xHHH8xQ6Q")
_NO_TABLE = 2**64 - 1
_BLOCK_LOG = range(12, 21)
_COMPRESSIONS = range(1, 7)
_FILE_SYSTEMS = {
    2: "ext3",
    3: "an archive",
    4: "raw data",
    5: "an encrypted squashfs",
    6: "gocryptfs",
}
_MACHINES = {b"02\0": "x86_64", b"04\0": "aarch64", b"06\0": "ppc64le"}


class BadImage(Exception):
    """Why a file is no image that can be run here."""


class FileSystem(Struct, frozen=True):
    """The squashfs of an image."""

    offset: int
    """Bytes, from the beginning of the file."""
    size: int


def file_system(image: int) -> FileSystem:
    """The root file system in the open file `image`. Raises BadImage, and OSError if it cannot be
    read."""
    length = os.fstat(image).st_size
    head = os.pread(image, HEADER, 0)
    if head[:4] == _SQUASHFS_MAGIC:
        return _checked(image, FileSystem(0, length), length)
    if head[_FIRST : _FIRST + len(_MAGIC)] != _MAGIC:
        raise BadImage("it is neither a SIF nor a squashfs file")
    if len(head) < HEADER:
        raise BadImage("its header is cut off")
    total, at, table = struct.unpack_from("<qqq", head, _TOTAL)
    if not 0 < total <= MOST_DESCRIPTORS:
        raise BadImage(f"its table has {total} entries")
    if at < HEADER or table < total * DESCRIPTOR or at + total * DESCRIPTOR > length:
        raise BadImage("its table does not lie within the file")
    text = os.pread(image, total * DESCRIPTOR, at)
    if len(text) < total * DESCRIPTOR:
        raise BadImage("its table is cut off")
    found = [one for n in range(total) if (one := _primary(text, n * DESCRIPTOR)) is not None]
    if len(found) != 1:
        raise BadImage(f"it has {len(found)} root file systems")
    return _checked(image, found[0], length)


def _primary(table: bytes, at: int) -> FileSystem | None:
    """The file system that a descriptor names, if it is the image's root."""
    kind, used, offset, size = _FIELDS.unpack_from(table, at)
    if not used or kind != _PARTITION:
        return None
    what, role, machine = _EXTRA.unpack_from(table, at + _EXTRA_AT)
    if role == _OVERLAY:
        raise BadImage(
            "it has an overlay, which is not applied here: build it with what is in that"
        )
    if role != _PRIMARY:
        return None
    if what != _SQUASHFS:
        raise BadImage(
            f"its root is {_FILE_SYSTEMS.get(what, 'an unknown file system')}, no squashfs"
        )
    if (needs := _MACHINES.get(machine)) is not None and needs != platform.machine():
        raise BadImage(f"it is for {needs}, and this node is {platform.machine()}")
    return FileSystem(offset, size)


def _checked(image: int, found: FileSystem, length: int) -> FileSystem:
    if found.offset < 0 or found.size < _SUPERBLOCK.size or found.offset > length - found.size:
        raise BadImage("its root file system does not lie within the file: was it cut off?")
    head = os.pread(image, _SUPERBLOCK.size, found.offset)
    if len(head) < _SUPERBLOCK.size:
        raise BadImage("its root file system is cut off")
    if head[:4] != _SQUASHFS_MAGIC:
        raise BadImage("where its root file system should begin is no squashfs")
    if why := _bad_superblock(head, found.size):
        raise BadImage(why)
    return found


def _bad_superblock(head: bytes, size: int) -> str:
    """What is wrong with a squashfs of which `size` bytes are there; nothing if all is well.

    A kernel holds these against the same bounds, squashfuse does not: it would take the memory of
    a block whatever its size.
    """
    _, block, compression, log, ids, major, minor, used, *tables = _SUPERBLOCK.unpack(head)
    known, attributes, inodes, directories, fragments, exports = tables
    if not _SUPERBLOCK.size <= used <= size:
        return "its squashfs is longer than the file: was it cut off?"
    if (major, minor) != (4, 0):
        return f"its squashfs is of version {major}.{minor}, and 4.0 is known"
    if log not in _BLOCK_LOG or block != 1 << log:
        return f"its squashfs has blocks of {block} bytes"
    if compression not in _COMPRESSIONS:
        return f"its squashfs is compressed in no known way ({compression})"
    optional = [at for at in (attributes, fragments, exports) if at != _NO_TABLE]
    within = all(_SUPERBLOCK.size <= at < used for at in (known, inodes, directories, *optional))
    if not ids or not within or inodes >= directories:
        return "the tables of its squashfs do not lie within it"
    return ""
