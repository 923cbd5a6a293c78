"""How payloads of the demo on Rucio run: in Apptainer, from the image of containers/physics; in
bubblewrap where Apptainer does not work; without the image where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
    code, said = told([ROOT / "scripts/setup", *options])
    if code:
        return bare(f"the image could not be made ({said})", root=root)
    if not os.access(FUSE, os.R_OK | os.W_OK):
        return bare(f"{FUSE}, by which images are mounted, is not open to you", root=root)
    program = apptainer()
    if program is None:
        why = "Apptainer is not installed" + (
            "" if root else "; as root: scripts/setup --apptainer"
        )
    elif why := fault(program):
        why = f"Apptainer does not work: {why}"
    else:
        version = run([program, "--version"]).stdout.split()[-1]
        sentence = f"payloads run in Apptainer {version}, from the image {IMAGE}"
        return in_image(sentence, {"default": "apptainer", "apptainer": str(program.parent)})
    sentence = f"payloads run in bubblewrap, from the image {IMAGE}: {why}"
    return in_image(sentence, {"default": "auto"})


def in_image(sentence: str, container: Mapping[str, Any]) -> Runtime:
    return Runtime(
        sentence=sentence,
        python=IMAGE_PYTHON,
        container={**container, "images": [str(IMAGE.parent)]},
        job={"container": str(IMAGE)},
    )


def bare(why: str, *, root: bool) -> Runtime:
    """This machine's own system instead of the image."""
    remedy = "" if root else "; as root: scripts/setup --apptainer --images"
    return Runtime(
        sentence=f"payloads run in bubblewrap, without an image: {why}{remedy}",
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


def told(setup: Sequence[object]) -> tuple[int, str]:
    """Exit code and last line of scripts/setup; what it says that it does is shown meanwhile."""
    last = ""
    argv = [str(word) for word in setup]
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as made:
        assert made.stderr is not None
        for line in made.stderr:
            last = line.strip() or last
            if line.startswith("setup: making"):
                print(last, file=sys.stderr, flush=True)
    return made.returncode, last


def run(command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=TRY_S,
    )
