"""An earlier version of ours, from the history of this repository, to be run beside this one."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = "65bd3598f48fecbd650ac34b7433aff0f7d5c01b"  # stands for a release until there is one
PROGRAMS = {
    "dispatcher": "dispatcher.cli",
    "harvester-edge": "harvester_edge.cli",
    "pilot": "pilot.__main__",
}
_SCRIPT = """\
#!{python}
import sys
sys.argv[0] = "{name}"
from {module} import main
sys.exit(main())
"""


def before() -> str | None:
    """The newest release before what is checked out here, or what stands for it; None: the history
    is not here."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^")
    return tag or _git("rev-parse", "--verify", "--quiet", f"{FIRST}^{{commit}}")


def programs(commit: str, folder: Path) -> Path:
    """Make the programs of `commit` in `folder`, on the libraries of this environment; where they
    are.

    They have an environment of their own: whatever they start finds their modules and not ours.
    """
    tree, packed = folder / "tree", folder / "tree.tar"
    tree.mkdir()
    if _git("archive", "--output", str(packed), commit) is None:
        raise RuntimeError(f"git cannot give us {commit}")
    subprocess.run(["tar", "-xf", packed, "-C", tree], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    # only as folders: what this environment's own .pth files name, this tree, is not followed
    (packages / "before.pth").write_text(f"{tree}\n{sysconfig.get_path('purelib')}\n")
    binaries = folder / "venv/bin"
    for name, module in PROGRAMS.items():
        script = binaries / name
        script.write_text(_SCRIPT.format(python=binaries / "python", name=name, module=module))
        script.chmod(0o755)
    return binaries


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()
