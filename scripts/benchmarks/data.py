"""Files through the pilot's staging, beside a bare loop and the tools: all with adler32, but where
a tool has none."""

from __future__ import annotations

import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.bare import moves, tools
from benchmarks.data_files import FILES, LARGE, Files, best, nginx, place, under
from benchmarks.stager import Stager, Took
from tests.rig.figure import Figure, figure
from tests.rig.services import Service, running

PARTS = ("file", "http")
Way = Callable[[Path], float | None]


class Here(NamedTuple):
    """What all parts share."""

    directory: Path
    files: Files
    xrootd: Service


def run(args: Namespace) -> Iterator[Figure]:
    """Each part in turn."""
    with place() as directory, running("xrootd") as xrootd:
        files = Files(directory / "served")
        shutil.copytree(directory / "served", f"{xrootd.facts['store']}/served")
        here = Here(directory, files, xrootd)
        for part in args.parts or PARTS:
            yield from {"file": _file, "http": _http}[part](here)


# -- what a figure is held against -----------------------------------------------------------------


def _large(what: str, least: Mapping[str, float], **targets: float) -> Iterator[Figure]:
    """MiB/s of ours beside each peer."""
    speed = {name: LARGE / seconds / 2**20 for name, seconds in least.items()}
    for peer in [name for name in speed if name != "ours"]:
        wanted = targets.get(_short(peer))
        yield figure(f"data: 1 GiB {what}", speed["ours"], "MiB/s", peer=speed[peer],
                     at_least=wanted, note=f"peer: {peer}")  # fmt: skip


def _small(what: str, least: Mapping[str, float], **targets: float) -> Iterator[Figure]:
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


# -- parts -----------------------------------------------------------------------------------------


def _file(here: Here) -> Iterator[Figure]:
    storage = {"roots": [str(here.directory)]}
    served = f"file://{here.directory}/served"
    with Stager(here.directory / "stager-file", storage) as stager:
        ours = Ours(stager, here.files)
        large: dict[str, Way] = {
            "bare": partial(moves.copy, [here.files.large]),
            "ours": partial(ours.large, f"{served}/large"),
        }
        yield from _large("file", best(large, here.directory), bare=0.95)
        small: dict[str, Way] = {
            "bare": partial(moves.copy, here.files.small),
            "ours": partial(ours.small, f"{served}/small"),
        }
        yield from _small("file", best(small, here.directory))
        yield from ours.cpu("file")


def _http(here: Here) -> Iterator[Figure]:
    facts = here.xrootd.facts
    ca = facts["ca_file"]
    with nginx(here.directory, str(Path(ca).parent)) as (plain, secure):
        storage = {"http_allow": [plain, secure, facts["davs"]]}
        with Stager(here.directory / "stager-http", storage, ca) as stager:
            ours = Ours(stager, here.files)
            for url in (plain, secure):
                yield from _downloads(here, ours, url, ca)
            yield from _davs(here, ours, f"{facts['davs']}/served", ca)
            yield from _uploads(here, ours, ca)
            yield from ours.cpu("http")


def _downloads(here: Here, ours: Ours, url: str, ca: str) -> Iterator[Figure]:
    """From nginx, by http or https."""
    what = f"{url.partition(':')[0]}, nginx"
    large: dict[str, Way] = {
        "bare": lambda into: moves.get([f"{url}/large"], into, ca),
        "ours": partial(ours.large, f"{url}/large"),
        "curl (no checksum)": lambda into: tools.curl(f"{url}/large", into, ca),
        "rclone (no adler32)": lambda into: tools.rclone(url, "large", into, ca),
    }
    yield from _large(what, best(large, here.directory), bare=0.85, curl=0.9)
    small: dict[str, Way] = {
        "bare": lambda into: moves.get(under(f"{url}/small", here.files.small), into, ca),
        "ours": partial(ours.small, f"{url}/small"),
    }
    yield from _small(what, best(small, here.directory), bare=2)


def _davs(here: Here, ours: Ours, davs: str, ca: str) -> Iterator[Figure]:
    https, ca_dir = _https(davs), here.xrootd.facts["ca_dir"]
    large: dict[str, Way] = {
        "bare": lambda into: moves.get([f"{https}/large"], into, ca),
        "ours": partial(ours.large, f"{davs}/large"),
        "gfal-copy -K": lambda into: tools.gfal_copy(
            f"{davs}/large", f"file://{into}/large", ca_dir
        ),
    }
    least = best(large, here.directory)
    yield from _large("davs, XRootD", least, bare=0.85, gfal_copy=1.7)
    urls = under(f"{davs}/small", here.files.small)
    small: dict[str, Way] = {
        "bare": lambda into: moves.get([_https(url) for url in urls], into, ca),
        "ours": partial(ours.small, f"{davs}/small"),
        "gfal2's API": lambda into: tools.gfal2(urls, into, ca, ca_dir),
        "rclone (no adler32)": lambda into: tools.rclone(https, "small", into, ca, "webdav"),
    }
    least = best(small, here.directory)
    yield from _small("davs, XRootD", least, bare=2, gfal2=0.5, rclone=0.2)


def _uploads(here: Here, ours: Ours, ca: str) -> Iterator[Figure]:
    store, davs = Path(here.xrootd.facts["store"]), here.xrootd.facts["davs"]
    into = store / "up"
    into.mkdir()
    shutil.chown(into, store.owner(), store.group())
    large, small = here.files.large, here.files.small

    def up(way: Callable[[str, Path], float | None], into: Path) -> float | None:
        """By a directory of the store, which the server's user may write."""
        shutil.chown(into, store.owner(), store.group())
        return way(f"{davs}/up", into)

    ways: dict[str, Way] = {
        "bare": partial(up, lambda url, into: moves.put(
            [large], under(f"{_https(url)}/{into.name}", [large]), ca)),
        "ours": partial(up, ours.put_large),
        "gfal-copy -K": partial(up, lambda url, into: tools.gfal_copy(
            f"file://{large}", f"{url}/{into.name}/large", here.xrootd.facts["ca_dir"])),
    }  # fmt: skip
    yield from _large("upload, davs, XRootD", best(ways, into), bare=0.8)
    ways = {
        "bare": partial(up, lambda url, into: moves.put(
            small, under(f"{_https(url)}/{into.name}", small), ca)),
        "ours": partial(up, ours.put_small),
    }  # fmt: skip
    yield from _small("upload, davs, XRootD", best(ways, into), bare=2)


def _https(davs: str) -> str:
    return davs.replace("davs:", "https:", 1)
