"""One process of a mover, as the pilot holds it: how it is started, spoken to and ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from pilot.ports import ProcessEnd, ProcessSpec, Spawner
from pilot.process.frames import frame, frames, receive, send
from pilot.process.mover import Answer, Order
from pilot.workdir import remove_tree, tail_of

STEP_S = 0.5
"""How long a job that was stopped may wait for an answer before it notices."""
SEND_S = 30.0
"""How long a child may leave an order unread: it reads whenever it does nothing else."""
FINISH_S = 5.0
"""How long a child that nobody needs any more may finish what it does beside its calls."""
# A stderr that a library floods.
_STDERR_BYTES, _LAST_WORDS = 1 << 20, 2000
_answers = msgspec.msgpack.Decoder(list[Answer])
_log = Log("pilot.mover")


class Died(Exception):
    """The child ended by itself, or sends nonsense; how."""


class Launch(Struct, frozen=True, kw_only=True):
    """How children are started."""

    spawner: Spawner
    directory: Path
    """Beneath it each child has one of its own."""
    command: Sequence[str]
    environment: Mapping[str, str]
    parallel: int = 2
    """How many children of a plugin there may be: so many jobs move files by it at once."""


def own_command(module: str) -> list[str]:
    """The command line of this pilot's own program, as it was started; one that is not frozen runs
    `module`."""
    if not getattr(sys, "frozen", False):
        return [sys.executable, "-P", "-X", "utf8", "-m", module]
    # It may run by a loader of its own, which stands before it.
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    return [os.fsdecode(word) for word in words[: len(words) - len(sys.argv) + 1]]


def mover_command() -> list[str]:
    """The command line of a mover's process."""
    own = own_command("pilot.process.mover")
    return [*own, "--mover"] if getattr(sys, "frozen", False) else own


def mover_environment(own: Mapping[str, str]) -> dict[str, str]:
    """What a mover has of the pilot's environment `own`: where programs and libraries are, no
    more."""
    kept = {name: own[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in own}
    path = [entry for entry in sys.path if entry.startswith("/") and os.pathsep not in entry]
    return {"PATH": os.defpath, **kept, "LANG": "C.UTF-8", "PYTHONPATH": os.pathsep.join(path)}


class MoverChild:
    """One process, and the pilot's end of its socket."""

    def __init__(self, launch: Launch, name: str, number: int) -> None:
        self._directory = launch.directory / f"{name}-{number}"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = str(self._directory)
        self._stderr = self._directory / "stderr"
        self._ended = threading.Event()
        self._end: ProcessEnd | None = None
        self._buffer = bytearray()
        self._spawner = launch.spawner
        self._link, theirs = socket.socketpair()
        with theirs:
            order = ProcessSpec(
                argv=[*launch.command, name],
                environment={
                    **launch.environment,
                    "HOME": own,
                    "TMPDIR": own,
                    # So what it starts in sessions of their own is known as its.
                    "AILURUS_ATTEMPT": f"mover-{name}-{number}",
                },
                directory=own,
                stderr=str(self._stderr),
                socket=theirs.fileno(),
            )
            self._key = self._spawner.spawn(order, self._on_end)

    @property
    def lives(self) -> bool:
        return not self._ended.is_set()

    def send(self, order: Order, fds: Sequence[int] = ()) -> None:
        """Give it an order. Raises Died."""
        self._bound_stderr()
        self._link.settimeout(SEND_S)
        try:
            send(self._link, frame([order]), fds)
        except TimeoutError:
            raise Died("it takes no orders") from None
        except OSError:
            raise Died(self._how()) from None

    def answers(self) -> Iterator[Answer | None]:
        """What it says; None now and then while it is silent. Raises Died."""
        while True:
            # A call may take hours.
            self._bound_stderr()
            self._link.settimeout(STEP_S)
            try:
                data, fds = receive(self._link)
                for fd in fds:
                    os.close(fd)
                if not data:
                    raise Died(self._how())
                self._buffer += data
                found = [_answers.decode(body) for body in frames(self._buffer)]
            except TimeoutError:
                yield None
                continue
            except OSError:
                raise Died(self._how()) from None
            except (ValueError, RecursionError, msgspec.MsgspecError) as error:
                raise Died(f"what it said was not understood ({error})") from None
            for some in found:
                yield from some

    def finish(self) -> None:
        """Let it end by itself, and kill it where that takes too long."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
            self._ended.wait(FINISH_S)
        self.end()

    def end(self) -> None:
        """Kill it with all that it started, and remove what it leaves."""
        self._spawner.signal(self._key, signal.SIGKILL)
        self._link.close()
        self._ended.wait(STEP_S * 20)
        remove_tree(self._directory)

    def _bound_stderr(self) -> None:
        with suppress(OSError):
            if self._stderr.stat().st_size > _STDERR_BYTES:
                os.truncate(self._stderr, 0)

    def _on_end(self, ended: ProcessEnd) -> None:
        self._end = ended
        self._ended.set()

    def _how(self) -> str:
        """How it ended; the end of its stderr goes to the pilot's log, where no user reads it."""
        self._ended.wait(STEP_S * 4)
        with suppress(OSError), self._stderr.open("rb") as file:
            _, end = tail_of(file.fileno(), _LAST_WORDS)
            if words := end.decode("utf-8", "replace").strip():
                _log.info("mover_stderr", end=words)
        ended = self._end
        if ended is None:
            return "its socket is closed"
        if ended.errno:
            return os.strerror(ended.errno)
        code = ended.exit_code
        return f"signal {-code}" if code < 0 else f"exit code {code}"
