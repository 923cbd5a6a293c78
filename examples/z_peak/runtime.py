"""How payloads run where the demo takes its data from Rucio: in the image of containers/physics, by
Apptainer where that works; else by bubblewrap; and without the image where none can be had."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services import PHYSICS, ROOT, interpreter

IMAGE = ROOT / "build/images/physics.sif"
IMAGE_PYTHON = Path("/usr/bin/python3")
FUSE = Path("/dev/fuse")
TRY_S = 60.0


@dataclass(frozen=True)
class Runtime:
    """How payloads run."""

    sentence: str
    """For people; with what would help if it is less than it could be."""
    python: Path
    container: Mapping[str, Any]
    """A part of the site file."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every job."""
    software: Sequence[str] = ()


def runtime() -> Runtime:
    """The best that can be had here."""
    root = os.getuid() == 0
    options = ("--apptainer", "--images") if root else ("--images",)
    setup = [ROOT / "scripts/setup", *options]
    made = subprocess.run(setup, check=False, capture_output=True, text=True)
    if made.returncode:
        why = made.stderr.strip().splitlines()[-1:]
        return bare(f"the image could not be made ({' '.join(why)})", root=root)
    if not os.access(FUSE, os.R_OK | os.W_OK):
        return bare(f"{FUSE}, by which images are mounted, is not open to you", root=root)
    program = apptainer()
    if program is None:
        why = "there is no Apptainer" + ("" if root else " (as root: scripts/setup --apptainer)")
    elif why := fault(program):
        why = f"Apptainer does not work ({why})"
    else:
        version = run([program, "--version"]).stdout.split()[-1]
        return in_image("apptainer", f"Apptainer {version}", {"apptainer": str(program.parent)})
    return in_image("auto", f"bubblewrap, for {why},", {})


def in_image(kind: str, name: str, more: Mapping[str, Any]) -> Runtime:
    return Runtime(
        sentence=f"payloads run by {name} in {IMAGE}",
        python=IMAGE_PYTHON,
        container={"default": kind, "images": [str(IMAGE.parent)], **more},
        job={"container": str(IMAGE)},
    )


def bare(why: str, *, root: bool) -> Runtime:
    """This machine's own system instead of the image."""
    remedy = "" if root else "; as root: scripts/setup --apptainer --images"
    return Runtime(
        sentence=f"payloads run by bubblewrap, without an image: {why}{remedy}",
        python=PHYSICS / "bin/python",
        container={"default": "auto"},
        software=[str(PHYSICS), *interpreter(PHYSICS / "bin/python")],
    )


def apptainer() -> Path | None:
    """Its command: this machine's, or the one that `scripts/setup --apptainer` brings."""
    ours = ROOT / "build/apptainer/bin"
    found = shutil.which("apptainer") or shutil.which("apptainer", path=str(ours))
    return Path(found) if found else None


def fault(program: Path) -> str:
    """Why Apptainer does not run the image; empty: it does."""
    tried = run([program, "--silent", "exec", "--containall", IMAGE, IMAGE_PYTHON, "-c", "pass"])
    if not tried.returncode:
        return ""
    return " ".join(tried.stderr.strip().splitlines()[-1:]) or f"exit code {tried.returncode}"


def run(command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=TRY_S,
    )
