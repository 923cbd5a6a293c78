"""What the demo's workflow runs on: the files of this machine, unless it is something greater."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from services import PHYSICS, SCRIPTS, interpreter
from workflow import Files, on_disk

from ailurus import Client


@dataclass(frozen=True)
class Setting:
    """Where jobs find data and programs, and how what they made is looked at."""

    python: Path
    """As payloads see it."""
    files: Files
    site: Mapping[str, Any]
    """Parts of the site file: `storage`, `software`, `container`."""
    fetch: Callable[[Client, int], None]
    """Copies the outputs of a finished job beside the workflow. Raises AilurusError."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every job."""
    serve: Sequence[object] = ()
    """More options of `dispatcher serve`."""
    show: Callable[[Client, Sequence[int]], int] = lambda client, ids: 0
    """Shows what is kept of these jobs in the end; an exit code. Raises AilurusError."""


def plain(place: Path) -> Setting:
    """Files of this machine, and programs in bubblewrap."""
    return Setting(
        python=PHYSICS / "bin/python",
        files=on_disk(place / "storage"),
        site={
            "storage": disk(place),
            "software": [str(PHYSICS), *interpreter(PHYSICS / "bin/python"), str(SCRIPTS)],
            "container": {"default": "bubblewrap"},
        },
        fetch=partial(fetch, place),
    )


def disk(place: Path) -> dict[str, Any]:
    """A site's `storage` that is a directory."""
    return {
        "roots": [str(place / "storage")],
        "default_output": f"file://{place}/storage/out",
    }


def fetch(place: Path, client: Client, job_id: int) -> None:
    for file in client.show(job_id).files:
        shutil.copy(file.url.removeprefix("file://"), place / file.name)
