"""What `data` says of its parts: ours beside a bare loop and the tools."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.data_files import FILES, LARGE, Files, under
from benchmarks.stager import Stager, Took
from tests.rig.figure import Figure, figure
from tests.rig.services import Service

Way = Callable[[Path], float | None]


class Here(NamedTuple):
    """What all parts share."""

    directory: Path
    files: Files
    xrootd: Service


def large_of(what: str, least: Mapping[str, float], **targets: float) -> Iterator[Figure]:
    """MiB/s of ours beside each peer."""
    speed = {name: LARGE / seconds / 2**20 for name, seconds in least.items()}
    for peer in [name for name in speed if name != "ours"]:
        wanted = targets.get(_short(peer))
        yield figure(f"data: 1 GiB {what}", speed["ours"], "MiB/s", peer=speed[peer],
                     at_least=wanted, note=f"peer: {peer}")  # fmt: skip


def small_of(what: str, least: Mapping[str, float], **targets: float) -> Iterator[Figure]:
    """Milliseconds a file of ours beside each peer."""
    cost = {name: 1000 * seconds / FILES for name, seconds in least.items()}
    for peer in [name for name in cost if name != "ours"]:
        wanted = targets.get(_short(peer))
        yield figure(f"data: {FILES} × 64 KiB {what}", cost["ours"], "ms", peer=cost[peer],
                     at_most=wanted, note=f"peer: {peer}")  # fmt: skip


def _short(peer: str) -> str:
    """A peer's name as a keyword."""
    return re.sub(r"\W.*", "", peer.replace("-", "_"))


class Ours:
    """A stager, and what its CPU was at best."""

    def __init__(self, stager: Stager, files: Files) -> None:
        self._stager, self._files = stager, files
        self.cpu_ms: dict[str, float] = {}

    def large(self, url: str, into: Path) -> float:
        del into
        size = self._files.large.stat().st_size
        return self._stager.get([url], [self._files.large_adler32], [size]).seconds

    def small(self, url: str, into: Path) -> float:
        """The files of the directory at `url`."""
        del into
        urls = under(url, self._files.small)
        sizes = [file.stat().st_size for file in self._files.small]
        return self._noted("get", self._stager.get(urls, self._files.small_adler32s, sizes))

    def put_large(self, url: str, into: Path) -> float:
        return self._stager.put([self._files.large], f"{url}/{into.name}").seconds

    def put_small(self, url: str, into: Path) -> float:
        return self._noted("put", self._stager.put(self._files.small, f"{url}/{into.name}"))

    def _noted(self, what: str, took: Took) -> float:
        self.cpu_ms[what] = min(self.cpu_ms.get(what, 1e9), 1000 * took.cpu_s / FILES)
        return took.seconds

    def cpu(self, what: str) -> Iterator[Figure]:
        """What a small file costs the pilot's own process."""
        for way, spent_ms in self.cpu_ms.items():
            yield figure(f"data: the pilot's CPU a file, {what} {way}", spent_ms, "ms", at_most=2)
