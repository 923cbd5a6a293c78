"""The libraries of a GPU driver, which are this node's and not an image's.

`apptainer exec --nv` would bring them too, with every GPU of the node: so they are mounted by hand,
beside the devices that a job was given. ROCm's lie in images.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PLACE = "/.ailurus/driver"
"""Where they are in a container."""
_LDCONFIG = "/sbin/ldconfig"
_ASK_S = 20
_LINE = re.compile(r"\s*(\S+) \(([^)]*)\) => (/\S+)")
_NVIDIA = re.compile(r"lib(cuda|cudadebugger|nvcuvid|nvoptix|nvidia-.*|.*_nvidia)\.so(\.\d+)*\Z")
_MACHINES = {"x86_64": "x86-64", "aarch64": "AArch64", "ppc64le": "64bit"}
_SMI = "/usr/bin/nvidia-smi"


@cache
def nvidia() -> Mapping[str, str]:
    """What to mount where, read-only: from paths of this node to paths of a container."""
    try:
        listed = subprocess.run(
            [_LDCONFIG, "-p"],
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_S,
            check=True,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        listed = ""
    found = {
        path: f"{PLACE}/{name}" for name, path in libraries(listed, os.uname().machine).items()
    }
    return {**found, _SMI: _SMI} if Path(_SMI).is_file() else found


def libraries(listed: str, machine: str) -> dict[str, str]:
    """NVIDIA's, by name, of what `ldconfig -p` lists for a kind of machine; the first of a name is
    what programs get."""
    found: dict[str, str] = {}
    for line in listed.splitlines():
        if (
            (match := _LINE.fullmatch(line))
            and _NVIDIA.match(match[1])
            and _MACHINES.get(machine, "") in match[2]
        ):
            found.setdefault(match[1], match[3])
    return found
