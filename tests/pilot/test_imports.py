"""What a pilot imports before its first acquire: each module costs every pilot its time to
start."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
before = set(sys.modules)
from pilot import __main__
from ailurus import entry
entry.import_msgspec()
{imports}
print(" ".join(sorted(set(sys.modules) - before)))
"""
PILOT = """
from ailurus import logs
from pilot import start, serve, options
"""
AGENT = "from pilot.agents import agent"
PACKAGES = {"ailurus", "msgspec", "pilot", "plugins", "urllib3"}
# None of them is of use before a job needs it.
LATE = {
    "asyncio",
    "ctypes",
    "inspect",
    "multiprocessing",
    "resource",
    "sqlite3",
    "subprocess",
    "tarfile",
    "yaml",
}


def imported(imports: str) -> set[str]:
    """The modules of a program that has these imports, and is about to register."""
    command = [sys.executable, "-c", LOOK.format(imports=imports)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def of_urllib3() -> set[str]:
    """What Python itself brings with the one module of it that urllib3 takes: from 3.12 on
    `inspect`."""
    command = [sys.executable, "-c", "import importlib.metadata, sys; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_a_pilot_starts_with_few_modules_and_fewer_packages():
    modules = imported(PILOT)
    packages = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    packages = {name for name in packages if not name.startswith("_")}
    assert packages <= PACKAGES
    assert modules & LATE - of_urllib3() == set()


def test_an_agent_needs_less_than_a_pilot():
    assert imported(AGENT) & {*LATE, "_hashlib", "dataclasses", "http", "urllib3"} == set()
