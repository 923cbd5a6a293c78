"""What the frozen pilot runs: the pilot, in its caller's environment."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress


def give_back(environment: MutableMapping[str, str]) -> None:
    """Undo what PyInstaller's loader did to start us: a transfer tool of the host that we start
    would otherwise load the bundle's libraries, or take itself for a part of the bundle."""
    callers = environment.pop("LD_LIBRARY_PATH_ORIG", "")
    environment.pop("LD_LIBRARY_PATH", None)
    if callers:
        environment["LD_LIBRARY_PATH"] = callers
    for name in [name for name in environment if name.startswith("_PYI_")]:
        del environment[name]


def name(word: str) -> None:
    """What `ps` and `top` call us: otherwise the loader that we were started by."""
    with suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as file:  # noqa: PTH123 -- pathlib is slow
        file.write(word)


if __name__ == "__main__":
    give_back(os.environ)
    name("pilot")
    from pilot.__main__ import main

    sys.exit(main())
