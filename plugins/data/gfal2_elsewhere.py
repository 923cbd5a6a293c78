"""gfal2's module as another Python has it: with the names of that module, of which the mover uses
few, and a process of that Python for each context."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import resources
from types import SimpleNamespace
from typing import Any, NamedTuple

from pilot.ports import MOST_FOUND
from plugins.data.moving import system_module

USUAL = ("python3", "/usr/bin/python3", "/usr/libexec/platform-python")
"""Pythons of the system, which `python3-gfal2` belongs to."""
LOOK_S = 30.0
_OPTIONS = ("overwrite", "timeout", "create_parent")


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
        self._told(("filecopy", own, target, options), parameters)

    def checksum(self, url: str, kind: str) -> str:
        return str(self.call("checksum", url, kind))

    def stat(self, url: str) -> Any:
        return _About(*self.call("stat", url))

    def unlink(self, url: str) -> None:
        self.call("unlink", url)

    def opendir(self, url: str) -> OpenDirectory:
        entries = self.call("entries", url, MOST_FOUND + 1)
        return OpenDirectory(iter([tuple(one) for one in entries]))

    def call(self, *words: object) -> Any:
        """What the process answers."""
        return self._told(words, None)

    def _told(self, words: tuple[object, ...], parameters: Any) -> Any:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - as it was started
        assert process.stdout is not None  # noqa: S101 - the same
        try:
            process.stdin.write(json.dumps([words[0], words[1:]]) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    code, message = answer["error"]
                    raise GError(message, code)
                if "value" in answer:
                    return answer["value"]
                _pass_on(answer, parameters)
        except (OSError, ValueError):
            # It has died, which the lines below say.
            pass
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


def _pass_on(answer: Mapping[str, Any], parameters: Any) -> None:
    """Tell the callbacks of a copy."""
    if "bytes" in answer and parameters.monitor_callback is not None:
        parameters.monitor_callback(None, None, None, None, answer["bytes"], None)
    if "stage" in answer and parameters.event_callback is not None:
        parameters.event_callback(SimpleNamespace(stage=answer["stage"]))
