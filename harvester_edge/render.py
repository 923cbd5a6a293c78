"""The batch script as text. Pure: values are quoted one by one, nothing is pasted into shell text.

The script holds no secret: it names the file from which the pilot takes its bootstrap token.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from msgspec import Struct

LEFT = "left"
"""In a worker's directory: how many jobs its pilot had, written when it left."""


class Access(Struct, frozen=True, kw_only=True):
    """How a pilot reaches the queue: further options and variables, and the form of its
    credential."""

    options: dict[str, str] = {}
    environment: dict[str, str] = {}
    credential_value: str = ""
    """The variable that gets the credential itself; empty: AILURUS_BOOTSTRAP_FILE gets the path of
    its file."""


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
    head: bool = False
    """It drives all nodes of its allocation."""
    lifetime_s: int
    idle_exit_s: int
    trust: tuple[str, ...] = ()
    """Options that say by what the pilot knows its dispatcher."""
    access: Access = Access()


def spool_in(work: str) -> str:
    """Where pilots that work in `work` keep unsent reports: the next pilot, or the edge, sends
    those of a dead one."""
    return f"{work}/spool"


def script(launch: Launch, index: str, batch_id: str = "") -> str:
    """A script for any batch system. `index` and `batch_id` are shell expressions: of the worker's
    number, and of its id in the batch system."""
    options = {
        "--url": launch.url,
        "--queue": launch.queue,
        "--site": str(launch.site_file),
        "--slot": launch.slot,
        "-a": launch.work,
        "--spool": spool_in(launch.work),
        "-l": str(launch.lifetime_s),
        "--idle-exit": str(launch.idle_exit_s),
        **launch.access.options,
    }
    lines = [f"{name} {shlex.quote(value)}" for name, value in options.items()]
    if launch.head:
        lines.append("--head")
    if launch.trust:
        lines.append(shlex.join(launch.trust))
    return (
        "#!/bin/sh\n"
        # A batch system reads its directives up to the first command: no value can become one.
        "set -u\n"
        + f"export AILURUS_BATCH_ID={batch_id}\n" * bool(batch_id)
        + _credential(launch, index)
        + " \\\n    ".join((f"exec {shlex.quote(launch.program)}", *lines))
        + "\n"
    )


def probe_words(launch: Launch, image: str) -> list[str]:
    """The command by which the pilot tries the machine that it is on, and takes no job."""
    words = [launch.program, "--probe", "--queue", launch.queue, "--slot", launch.slot]
    words += ["--site", str(launch.site_file), "-a", launch.work, *launch.trust]
    return [*words, "--image", image] if image else words


def probe_script(launch: Launch, image: str) -> str:
    """The same for a batch system; the answers come on stdout."""
    return f"#!/bin/sh\nset -u\nexec {shlex.join(probe_words(launch, image))}\n"


def _credential(launch: Launch, index: str) -> str:
    """The lines that hand a worker its credential: its bootstrap token, or its number at a PanDA
    server."""
    directory = f"{shlex.quote(str(launch.directory))}/{index}"
    lines = [f"export AILURUS_LEFT_FILE={directory}/{LEFT}"]
    lines += [f"export {name}={shlex.quote(v)}" for name, v in launch.access.environment.items()]
    if variable := launch.access.credential_value:
        lines.append(f"{variable}=$(cat {directory}/bootstrap) && export {variable}")
    else:
        lines.append(f"export AILURUS_BOOTSTRAP_FILE={directory}/bootstrap")
    return "".join(f"{line}\n" for line in lines)
