"""A mover's process: runs one plugin of kind `mover` for the pilot, which can afford to lose it.

The guardian starts it with one socket, a directory and an environment of its own. What the plugin
may know comes over the socket: its options, batches of files, open files to upload. It ends with
the socket, or with its parent.

    pilot → mover   Setup, then one of Get, Put, Delete, Expand, Examine at a time
    mover → pilot   Ready, Moved, NotMoved, Progress, Deleted, Expansion, Examined; at the end of
                    each call Over or Refused
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import plugins
from ailurus.protocol.errors import AilurusError, Code
from pilot.blame import making
from pilot.ports import Examines, Found, JobError, Moved, Mover, NotMoved, Progress, ToGet, ToPut
from pilot.process.frames import SOCKET, frame, frames, receive, send
from pilot.process.kill import become_undumpable, die_with_parent

# How often progress of one file is passed on.
PROGRESS_S = 0.25


class Setup(Struct, frozen=True, tag=True):
    name: str
    options: dict[str, Any]
    credentials: dict[str, str] = {}
    """Of a job's user, see `plugins.with_credentials`."""


class Get(Struct, frozen=True, tag=True):
    files: list[ToGet]


class Put(Struct, frozen=True, tag=True):
    """Its open files come as descriptors, in the same order; `path` is filled in here."""

    files: list[ToPut]


class Delete(Struct, frozen=True, tag=True):
    urls: list[str]


class Expand(Struct, frozen=True, tag=True):
    url: str


class Examine(Struct, frozen=True, tag=True):
    """For `harvester-edge doctor`: what the service behind the storage says of this site."""


class Ready(Struct, frozen=True, tag=True):
    """The plugin is loaded and has taken its options."""


class Deleted(Struct, frozen=True, tag=True):
    left: dict[str, str]


class Expansion(Struct, frozen=True, tag=True):
    files: list[Found]


class Examined(Struct, frozen=True, tag=True):
    said: list[str]


class Over(Struct, frozen=True, tag=True):
    """The call is over."""


class Refused(Struct, frozen=True, tag=True):
    """The call is over by what the plugin raised."""

    code: Code
    message: str
    remedy: str = ""
    transient: bool = False


Order = Setup | Get | Put | Delete | Expand | Examine
Answer = Ready | Moved | NotMoved | Progress | Deleted | Expansion | Examined | Over | Refused
_orders = msgspec.msgpack.Decoder(list[Order])


def main() -> NoReturn:
    """Serve the pilot until its socket ends."""
    die_with_parent()
    become_undumpable()
    # How this program was found; the tools that a plugin starts have their own Python.
    os.environ.pop("PYTHONPATH", None)
    # The pilot ends it by KILL; a terminal's signals are not for it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    link = socket.socket(fileno=SOCKET)
    link.set_inheritable(False)
    child = _Child(link)
    with contextlib.suppress(OSError):
        child.serve()
    child.close()
    # Threads of a library may hang.
    os._exit(0)


class _Child:
    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._mover: Mover | None = None
        # Files that are told of while a call runs, and when last.
        self._progress: dict[int, float] = {}
        self._writing: set[int] = set()
        self._open: set[int] = set()
        self._lock = threading.Lock()

    def serve(self) -> None:
        buffer = bytearray()
        fds: list[int] = []
        while True:
            data, came = receive(self._link)
            if not data:
                return
            buffer += data
            fds += came
            for body in frames(buffer):
                for order in _orders.decode(body):
                    self._do(order, fds)

    def close(self) -> None:
        """Let the plugin finish; the pilot ends the wait."""
        if self._mover is not None:
            # Whatever it raises, nobody is there to hear it.
            with contextlib.suppress(Exception):
                self._mover.close()

    def _do(self, order: Order, fds: list[int]) -> None:
        failed = Code.STAGE_OUT_FAILED if isinstance(order, Put) else Code.STAGE_IN_FAILED
        taken: list[int] = []
        if isinstance(order, Put):
            taken, fds[:] = fds[: len(order.files)], fds[len(order.files) :]
        try:
            # A plugin may have made what no frame holds, of numbers that a storage told it.
            said = frame([*self._answers(order, taken), Over()])
        except Exception as error:  # noqa: BLE001 - a plugin and its library may raise anything
            said = frame([_refused(error, failed)])
        finally:
            for fd in taken:
                os.close(fd)
        with self._lock:
            self._open.clear()
            send(self._link, said)

    def _answers(self, order: Order, fds: Sequence[int]) -> list[Answer]:
        if isinstance(order, Setup):
            self._mover = _made(order)
            return [Ready()]
        mover = self._mover
        assert mover is not None  # noqa: S101 - the pilot sends Setup first
        self._progress.clear()
        self._writing.clear()
        if isinstance(order, Get):
            self._open = {file.key for file in order.files}
            mover.get(order.files, self._tell)
        elif isinstance(order, Put):
            if len(fds) != len(order.files):
                raise JobError(
                    Code.RESOURCE_UNAVAILABLE,
                    "the mover has no file descriptor left",
                    remedy="raise the node's limit of open files (ulimit -n)",
                )
            pairs = zip(order.files, fds, strict=True)
            files = [replace(file, path=f"/proc/self/fd/{fd}") for file, fd in pairs]
            self._open = {file.key for file in files}
            mover.put(files, self._tell)
        elif isinstance(order, Delete):
            return [Deleted(dict(mover.delete(order.urls)))]
        elif isinstance(order, Expand):
            return [Expansion(list(mover.expand(order.url)))]
        else:
            return [Examined(list(mover.examine()) if isinstance(mover, Examines) else [])]
        return []

    def _tell(self, news: Moved | NotMoved | Progress) -> None:
        """Pass on what a mover says of a file; of progress only what people could read."""
        with self._lock:
            if news.key not in self._open:
                return
            if isinstance(news, Progress):
                now = time.monotonic()
                # That it writes must be known at once, whoever dies next.
                writes = news.moved_bytes > 0 and news.key not in self._writing
                if now < self._progress.get(news.key, 0.0) and not writes:
                    return
                self._progress[news.key] = now + PROGRESS_S
                if writes:
                    self._writing.add(news.key)
            else:
                self._open.discard(news.key)
            if isinstance(news, NotMoved):
                news = replace(news, message=as_text(news.message), remedy=as_text(news.remedy))
            try:
                send(self._link, frame([news]))
            except OSError:
                # The pilot is gone, and nobody wants the rest.
                os._exit(0)


def _made(setup: Setup) -> Mover:
    """The plugin, with its options. Raises JobError for what the site's administrator must
    repair."""
    with making(setup.name):
        kind = plugins.load("mover", setup.name)
        given = plugins.with_credentials(kind.Options, setup.options, setup.credentials)
        made: Mover = kind(msgspec.convert(given, kind.Options))
    return made


def as_text(said: str) -> str:
    """What a library said, whose bytes need not have been UTF-8."""
    return said.encode("utf-8", "backslashreplace").decode("utf-8")


def _refused(error: Exception, code: Code) -> Refused:
    if isinstance(error, JobError):
        return Refused(error.code, as_text(error.message), as_text(error.remedy), error.transient)
    if isinstance(error, AilurusError):
        # Of a URL that means nothing to the plugin, say.
        return Refused(code, as_text(error.message), as_text(error.remedy))
    if isinstance(_first(error), UnicodeError):
        return Refused(
            code,
            "the storage has a name that is no text of UTF-8",
            "have it renamed, or name the files that are needed one by one",
        )
    return Refused(
        code,
        as_text(f"the transfer library failed: {type(error).__name__}: {error}"),
        "the job is tried again; if that does not help, name another plugin in storage.plugins",
        transient=True,
    )


def _first(error: BaseException) -> BaseException:
    """What an error comes from."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


if __name__ == "__main__":
    sys.exit(main())
