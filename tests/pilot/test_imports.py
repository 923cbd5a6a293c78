"""What a pilot imports before its first acquire: each module costs every pilot its time to
start."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
before = set(sys.modules)
from pilot import __main__
from ailurus import entry, logs
from pilot import start, serve, options
print(" ".join(sorted(set(sys.modules) - before)))
"""
# typing_extensions is what msgspec takes along where it is installed.
PACKAGES = {"ailurus", "msgspec", "pilot", "plugins", "typing_extensions", "urllib3"}
# None of them is of use before a job needs it.
LATE = {
    "asyncio",
    "ctypes",
    "multiprocessing",
    "resource",
    "sqlite3",
    "subprocess",
    "tarfile",
    "yaml",
}


def imported() -> set[str]:
    """The modules of a pilot that is about to register."""
    command = [sys.executable, "-c", LOOK]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_a_pilot_starts_with_few_modules_and_fewer_packages():
    modules = imported()
    packages = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    packages = {name for name in packages if not name.startswith("_")}
    assert packages <= PACKAGES
    assert modules & LATE == set()
