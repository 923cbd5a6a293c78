"""The scripts that plans bring along. POSIX shell, so that they run in any image."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def text(name: str) -> str:
    """The script of this name, from beside this file."""
    return Path(__file__).with_name(name).read_text("utf-8")


def package_found(package: str, command: str) -> str:
    """A script that tells whether a Python package, or its command, is here."""
    return f"{text('package_found.sh')}found {package} {command}\n"
