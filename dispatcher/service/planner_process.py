"""The process of a planner: one for each question, within bounds of time and of what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE
from importlib.util import find_spec

LONGEST_S = 60.0
MOST_BYTES = 1 << 20
"""Of an answer."""
PYTHON = sys.executable
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_MODULE = "plugins.planner.optuna"


class PlannerFailed(Exception):
    """There is no answer, and why."""


def has_optuna() -> bool:
    """Whether it is installed; it is not imported here."""
    return find_spec("optuna") is not None


async def ask_optuna(question: bytes, wanted: int, seed: int, within_s: float = LONGEST_S) -> bytes:
    """What Optuna answers. Raises PlannerFailed."""
    try:
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            # Nothing is imported from the directory that the dispatcher was started in.
            "-P",
            "-m",
            _MODULE,
            str(wanted),
            str(seed),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            # What it starts ends with it.
            start_new_session=True,
            env=_environment(),
        )
    except OSError as error:
        raise PlannerFailed(f"its process cannot be started: {error.strerror}") from None
    late = asyncio.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = asyncio.get_running_loop().call_later(within_s, end)
    try:
        # Its pipes end with it.
        answer, said, code = await _talk(process, question)
    finally:
        timer.cancel()
        _kill(process)
    if late.is_set():
        raise PlannerFailed(f"it has not answered for {within_s:.0f} s")
    if len(answer) > MOST_BYTES:
        raise PlannerFailed(f"its answer has more than {MOST_BYTES} bytes")
    if code != 0:
        lines = said.decode(errors="replace").strip().splitlines() or [""]
        how = f"a signal ({-code})" if code < 0 else f"exit code {code}"
        raise PlannerFailed(f"it ended by {how}: {lines[-1][:300]}")
    return answer


async def _talk(process: asyncio.subprocess.Process, question: bytes) -> tuple[bytes, bytes, int]:
    """What it answers, what it says beside, and its exit code. One that answers too much is
    killed."""
    assert process.stdin is not None  # noqa: S101 -- they are pipes
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101

    async def write(to: asyncio.StreamWriter) -> None:
        # One that reads nothing has its reason.
        with contextlib.suppress(ConnectionError):
            to.write(question)
            await to.drain()
        with contextlib.suppress(ConnectionError):
            to.close()
            await to.wait_closed()

    async def tail(of: asyncio.StreamReader) -> bytes:
        end = b""
        while some := await of.read(65_536):
            end = (end + some)[-4096:]
        return end

    async def read(of: asyncio.StreamReader) -> bytes:
        found = b""
        while some := await of.read(65_536):
            if len(found) > MOST_BYTES:
                _kill(process)
            else:
                found += some
        return found

    answer, said, _ = await asyncio.gather(
        read(process.stdout), tail(process.stderr), write(process.stdin)
    )
    return answer, said, await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """End it and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """What its libraries need, and nothing of the dispatcher's own; one thread."""
    return {
        **{name: value for name, value in os.environ.items() if name in _PASSED_ON},
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
