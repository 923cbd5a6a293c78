"""What the readers of batch systems' variables share: checks, commands, and ways to start agents.

A node's name becomes a word of a command, and a number a bound, so whatever does not look like one
is an error that names the variable.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence

from ailurus.protocol.errors import AilurusError
from ailurus.regular import open_regular
from pilot.node_ports import Starter
from plugins.batch.pass_through import behind

MAX_NODES = 10_000
MOST_BYTES = 16 << 20
COMMAND_TIMEOUT_S = 20.0
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,12}")
_SECRETS = "AILURUS_", "BEARER_TOKEN"
OF_ONE_NODE = frozenset({
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
    "NVIDIA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS",
    "SLURM_GPUS_ON_NODE",
})  # fmt: skip
"""Variables that name devices of this node: the batch system says on each which it gave there."""

Ask = Callable[[Sequence[str]], str]
"""Runs a command and returns what it printed. Raises AilurusError if it fails."""


def runner(environ: Mapping[str, str]) -> Ask:
    """Commands in this environment, each for COMMAND_TIMEOUT_S at most."""

    def ask(argv: Sequence[str]) -> str:
        # Late: few allocations need it.
        import subprocess

        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                encoding="utf-8",
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                env=dict(environ),
            )
        except OSError as error:
            raise AilurusError(f"cannot run {argv[0]}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise AilurusError(f"{argv[0]} did not answer within {COMMAND_TIMEOUT_S:g} s") from None
        if done.returncode:
            why = (done.stderr.strip() or f"exit code {done.returncode}")[:500]
            raise AilurusError(f"{argv[0]}: {why}")
        return done.stdout

    return ask


def text_of(environ: Mapping[str, str], variable: str, system: str) -> str:
    """The value of a variable that the batch system sets. Raises AilurusError without it."""
    if value := environ.get(variable, "").strip():
        return value
    raise AilurusError(
        f"{variable} is not set, so this is no job of {system}",
        remedy=f"start the pilot in an allocation of {system}, or say another `pilot.allocation`",
    )


def file_of(environ: Mapping[str, str], variable: str, system: str) -> str:
    """The text of the file that a variable names. Raises AilurusError, also for what is none."""
    path = text_of(environ, variable, system)
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise unclear(variable, path, f"it cannot be read: {error}") from None
    if len(text) > MOST_BYTES:
        raise unclear(variable, path, "the file is too large")
    return text.decode("utf-8", "replace")


def unclear(variable: str, value: str, why: str) -> AilurusError:
    """The error of a variable whose value nobody understands."""
    shown = value if len(value) <= 100 else f"{value[:100]}…"
    return AilurusError(f"{variable} is {shown!r}: {why}")


def number_of(value: str, variable: str) -> int:
    """A whole number of a variable. Raises AilurusError."""
    if not _NUMBER.fullmatch(value):
        raise unclear(variable, value, "a number is expected")
    return int(value)


def names_of(names: Sequence[str], variable: str) -> tuple[str, ...]:
    """Names of nodes, each once, in the order of their first mention. Raises AilurusError."""
    found = tuple(dict.fromkeys(names))
    if not found:
        raise AilurusError(f"{variable} names no node")
    if len(found) > MAX_NODES:
        raise AilurusError(f"{variable} names {len(found)} nodes, and {MAX_NODES} are the most")
    for name in found:
        if not _NAME.fullmatch(name):
            raise unclear(variable, name, "no name of a node")
    return found


def first(names: Sequence[str], here: str, variable: str) -> tuple[str, ...]:
    """The names, that of this node first: `here` may have a domain that they lack, or lack theirs.

    Raises AilurusError if this node is none of them.
    """
    short = here.partition(".")[0]
    mine = [name for name in names if name == here]
    mine = mine or [name for name in names if name.partition(".")[0] == short]
    if len(mine) != 1:
        raise AilurusError(
            f"this node is {here}, and {variable} names " + ", ".join(names[:5]),
            remedy="start the pilot on a node of the allocation: its script runs on the first",
        )
    return (mine[0], *(name for name in names if name != mine[0]))


# how agents are started ------------------------------------------------------------------------


def for_agents(environ: Mapping[str, str]) -> dict[str, str]:
    """This environment without what is the pilot's secret or true of this node only."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_SECRETS) and name not in OF_ONE_NODE
    }


def program(name: str, environ: Mapping[str, str]) -> str:
    """Where a command is, by PATH: who starts it looks for nothing. Raises AilurusError."""
    if found := shutil.which(name, path=environ.get("PATH", "/usr/bin:/bin")):
        return found
    raise AilurusError(
        f"{name}, which starts agents, is in no directory of PATH here",
        remedy="name it with its directory in `pilot.allocation.options.start`",
    )


def check_template(words: Sequence[str]) -> None:
    """Raises ValueError for a command that does not say on which nodes it starts something."""
    text = " ".join(words)
    if words and ("{node}" in text) == ("{nodes}" in text):
        raise ValueError("say `{node}`, for a command a node, or `{nodes}`, for one for all")


def by_template(
    words: Sequence[str],
    argv: Sequence[str],
    nodes: Sequence[str],
    environ: Mapping[str, str],
    *,
    apart: bool = False,
) -> tuple[Starter, ...]:
    """A site's own command before `argv`: `[ssh, "{node}"]`, or
    `[mpirun, --host, "{nodes}", -n, "{count}"]`, where names stand with commas between."""
    alone = apart or any("{node}" in word for word in words)
    groups = [[name] for name in nodes] if alone else [list(nodes)] * bool(nodes)
    first_word = program(words[0], environ) if groups else ""
    return tuple(
        Starter(
            argv=behind([first_word, *(_filled(word, group) for word in words[1:])], argv),
            environment=for_agents(environ),
            nodes=group,
        )
        for group in groups
    )


def _filled(word: str, nodes: Sequence[str]) -> str:
    values = {"{nodes}": ",".join(nodes), "{node}": nodes[0], "{count}": str(len(nodes))}
    for mark, value in values.items():
        word = word.replace(mark, value)
    return word
