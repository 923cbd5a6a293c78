"""gfal2's module as another Python has it: with the names of that module, of which the mover uses
few, and a process of that Python for each context."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pilot.ports import MOST_FOUND
from plugins.data.moving import system_module

USUAL = ("python3", "/usr/bin/python3", "/usr/libexec/platform-python")
"""Pythons of the system, which `python3-gfal2` belongs to."""
LOOK_S = 30.0
LONGEST = 32 << 20
"""Characters of a line: as many files as a job may have, with the longest names."""
_OPTIONS = ("overwrite", "timeout", "create_parent")
_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Seen = tuple[int, _Number]
"""Mode and bytes."""


class _Answer(Struct, frozen=True):
    """A line of the process, which may be of any Python with any library."""

    value: Any = UNSET
    error: tuple[int, str] | UnsetType = UNSET
    bytes: _Number | UnsetType = UNSET
    stage: str | UnsetType = UNSET


class GError(Exception):
    """As gfal2's: an errno and a sentence."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message, self.code = message, code


def module(python: str) -> Any:
    """gfal2, by that Python, or else by ours, or else by one of the system's. Raises ImportError
    where none has it."""
    if python:
        if not _has_it(python):
            raise ImportError(f"{python} does not import gfal2")
        return Elsewhere(python)
    try:
        return system_module("gfal2")
    except ImportError:
        for one in USUAL:
            if (found := shutil.which(one)) and _has_it(found):
                return Elsewhere(found)
        raise


def _has_it(python: str) -> bool:
    try:
        tried = subprocess.run(
            [python, "-I", "-c", "import gfal2"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=LOOK_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


class Elsewhere:
    """What the mover uses of gfal2's module."""

    GError = GError

    def __init__(self, python: str) -> None:
        source = resources.files("plugins.data").joinpath("gfal2_server.py").read_text("utf-8")
        self._command = (python, "-I", "-c", source)

    def creat_context(self) -> Context:
        return Context(self._command)

    def cred_new(self, kind: str, value: str) -> str:
        del kind
        return value

    def cred_set(self, context: Context, server: str, token: str) -> None:
        context.call("token", server, token)


class _About(NamedTuple):
    st_mode: int
    st_size: int


class OpenDirectory:
    """Its entries, one after the other."""

    def __init__(self, entries: Iterator[tuple[str, int, int]]) -> None:
        self._entries = entries

    def readpp(self) -> tuple[Any, Any]:
        for name, mode, size in self._entries:
            return SimpleNamespace(d_name=name), _About(mode, size)
        return None, None


class Context:
    """One of gfal2's, in a process of its own, which is started when it is first needed. It ends
    with ours: its input does. All raise GError."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    def __del__(self) -> None:
        self.close()

    def transfer_parameters(self) -> Any:
        return SimpleNamespace(monitor_callback=None, event_callback=None)

    def filecopy(self, parameters: Any, source: str, target: str) -> None:
        # Our open files are another's there.
        own = source.replace("file:///proc/self/", f"file:///proc/{os.getpid()}/")
        options = {name: value for name, value in vars(parameters).items() if name in _OPTIONS}
        self._told(("filecopy", own, target, options), Any, parameters)

    def checksum(self, url: str, kind: str) -> str:
        found: str = self._told(("checksum", url, kind), str)
        return found

    def stat(self, url: str) -> Any:
        return _About(*self._told(("stat", url), _Seen))

    def unlink(self, url: str) -> None:
        self.call("unlink", url)

    def opendir(self, url: str) -> OpenDirectory:
        asked = "entries", url, MOST_FOUND + 1
        return OpenDirectory(iter(self._told(asked, list[tuple[str, int, _Number]])))

    def call(self, *words: object) -> None:
        """Have the process do something."""
        self._told(words, Any)

    def _told(self, words: tuple[object, ...], kind: Any, parameters: Any = None) -> Any:
        """What the process answers; one that says something else than was asked is ended."""
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - as it was started
        assert process.stdout is not None  # noqa: S101 - the same
        try:
            process.stdin.write(json.dumps([words[0], words[1:]]) + "\n")
            process.stdin.flush()
            while line := process.stdout.readline(LONGEST):
                answer = msgspec.convert(json.loads(line), _Answer)
                if answer.error is not UNSET:
                    code, message = answer.error
                    raise GError(message, code)
                if answer.value is not UNSET:
                    return msgspec.convert(answer.value, kind)
                _pass_on(answer, parameters)
        except GError:
            raise
        except (ValueError, RecursionError) as error:
            self.close()
            why = f"what the process of gfal2 said was not understood ({error})"
            raise GError(why, errno.EBADMSG) from None
        except OSError:
            # It has died.
            pass
        except BaseException:
            # What it says next answers nobody.
            self.close()
            raise
        self.close()
        raise GError("the process of gfal2 has ended", errno.ECONNABORTED)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    text=True, encoding="ascii",
                )  # fmt: skip
            except OSError as error:
                raise GError(f"gfal2 cannot be started: {error.strerror}", errno.EAGAIN) from None
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _pass_on(answer: _Answer, parameters: Any) -> None:
    """Tell the callbacks of a copy."""
    if answer.bytes is not UNSET and parameters.monitor_callback is not None:
        parameters.monitor_callback(None, None, None, None, answer.bytes, None)
    if answer.stage is not UNSET and parameters.event_callback is not None:
        parameters.event_callback(SimpleNamespace(stage=answer.stage))
