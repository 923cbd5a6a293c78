"""A filter of system calls: without the kernel's keyrings, which know no sandbox.

What a login left in them (Kerberos tickets, AFS tokens, keys of encrypted directories) is the
pilot's. A process inherits its session's keyring wherever it goes, and whoever is of the same user
may use that user's by its number, in any namespace: so a payload finds the calls missing, as on a
kernel without keyrings. What the kernel itself does with keys, as for files of AFS, is as ever.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

_FIRST = {
    0xC000003E: 248,  # x86_64, x32
    0x40000003: 286,  # i386
    0xC00000B7: 217,  # aarch64
    0x40000028: 309,  # arm
    0xC0000015: 269,  # ppc64le
    0x80000015: 269,  # ppc64
    0x00000014: 269,  # ppc
    0x80000016: 278,  # s390x
    0x00000016: 278,  # s390
    0xC00000F3: 217,  # riscv64
    0xC0000102: 217,  # loongarch64
}
"""By architecture (AUDIT_ARCH), the number of add_key; request_key and keyctl are the next two anywhere."""
_CALLS = 3
_X32 = 0x40000000
# Linux's seccomp data and its classic BPF: linux/seccomp.h, linux/filter.h.
_NUMBER, _ARCHITECTURE = 0, 4
_LOAD, _AND, _IF_EQUAL, _IF_NOT_LESS, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


def hidden() -> bytes:
    """The program, as `bwrap --seccomp` reads it."""
    return b"".join(struct.pack("=HBBI", *step) for step in _steps())


def _steps() -> Iterator[tuple[int, int, int, int]]:
    """An instruction: what, how many to skip if it holds and if not, with which number."""
    yield _LOAD, 0, 0, _ARCHITECTURE
    for architecture, first in _FIRST.items():
        yield _IF_EQUAL, 0, 6, architecture
        yield _LOAD, 0, 0, _NUMBER
        yield _AND, 0, 0, ~_X32 & 0xFFFFFFFF
        yield _IF_NOT_LESS, 0, 2, first
        yield _IF_NOT_LESS, 1, 0, first + _CALLS
        yield _RETURN, 0, 0, _FAIL | errno.ENOSYS
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ALLOW
