"""The batch script as text. Pure: values are quoted one by one, nothing is pasted into shell text.

The script holds no secret: it names the file from which the pilot takes its bootstrap token.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from msgspec import Struct

LEFT = "left"
"""In a worker's directory: how many jobs its pilot had, written when it left."""


class Panda(Struct, frozen=True, kw_only=True):
    """What a pilot needs to know of a PanDA server. The name of its worker there is in its file."""

    harvester_id: str
    token_file: str
    origin: str
    dialect: str
    label: str

    @property
    def environment(self) -> dict[str, str]:
        """As Harvester sets it for PanDA's own pilots."""
        named = {"HARVESTER_ID": self.harvester_id, "PANDA_JSID": f"harvester-{self.harvester_id}"}
        return named | ({"PANDA_AUTH_ORIGIN": self.origin} if self.origin else {})

    @property
    def options(self) -> dict[str, str]:
        told = {"--token-file": self.token_file, "-j": self.label}
        return told | ({"--dialect": self.dialect} if self.dialect else {})


class Launch(Struct, frozen=True, kw_only=True):
    """How a pilot is started."""

    program: str
    url: str
    queue: str
    slot: str
    site_file: Path
    work: str
    directory: Path
    """The order's; worker `index` has the directory of that name in it."""
    lifetime_s: int
    idle_exit_s: int
    trust: tuple[str, ...] = ()  # options that say whom the pilot believes to be its dispatcher
    panda: Panda | None = None

    @property
    def spool(self) -> str:
        """Where a site's pilots keep what they owe: the next one, or the edge, sends it for a dead one."""
        return f"{self.work}/spool"


def script(launch: Launch, index: str) -> str:
    """A script for any batch system. `index` is the shell expression of the worker's number."""
    options = {
        "--url": launch.url,
        "--queue": launch.queue,
        "--site": str(launch.site_file),
        "--slot": launch.slot,
        "-a": launch.work,
        "--spool": launch.spool,
        "-l": str(launch.lifetime_s),
        "--idle-exit": str(launch.idle_exit_s),
        **(launch.panda.options if launch.panda else {}),
    }
    lines = [f"{name} {shlex.quote(value)}" for name, value in options.items()]
    if launch.trust:
        lines.append(shlex.join(launch.trust))
    return (
        "#!/bin/sh\n"
        # A batch system reads its directives up to the first command: a value cannot become one.
        "set -u\n"
        + _credential(launch, index)
        + " \\\n    ".join((f"exec {shlex.quote(launch.program)}", *lines))
        + "\n"
    )


def _credential(launch: Launch, index: str) -> str:
    """Where a worker finds what it is: its bootstrap token, or its number at a PanDA server."""
    place = f"{shlex.quote(str(launch.directory))}/{index}"
    file, left = f"{place}/bootstrap", f"export AILURUS_LEFT_FILE={place}/{LEFT}\n"
    if launch.panda is None:
        return f"{left}export AILURUS_BOOTSTRAP_FILE={file}\n"
    lines = [left] + [
        f"export {name}={shlex.quote(v)}\n" for name, v in launch.panda.environment.items()
    ]
    return "".join(lines) + f"HARVESTER_WORKER_ID=$(cat {file}) && export HARVESTER_WORKER_ID\n"
