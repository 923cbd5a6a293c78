"""Files of this node, and by http, https and davs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.bare import moves, tools
from benchmarks.data_figures import Here, Ours, Way, large_of, small_of
from benchmarks.data_files import best, nginx, under
from benchmarks.stager import Stager
from tests.rig.figure import Figure


def local(here: Here) -> Iterator[Figure]:
    storage = {"roots": [str(here.directory)]}
    served = f"file://{here.directory}/served"
    with Stager(here.directory / "stager-file", storage) as stager:
        ours = Ours(stager, here.files)
        large: dict[str, Way] = {
            "bare": partial(moves.copy, [here.files.large]),
            "ours": partial(ours.large, f"{served}/large"),
        }
        yield from large_of("file", best(large, here.directory), bare=0.95)
        small: dict[str, Way] = {
            "bare": partial(moves.copy, here.files.small),
            "ours": partial(ours.small, f"{served}/small"),
        }
        yield from small_of("file", best(small, here.directory))
        yield from ours.cpu("file")


def http(here: Here) -> Iterator[Figure]:
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
    yield from large_of(what, best(large, here.directory), bare=0.85, curl=0.9)
    small: dict[str, Way] = {
        "bare": lambda into: moves.get(under(f"{url}/small", here.files.small), into, ca),
        "ours": partial(ours.small, f"{url}/small"),
    }
    yield from small_of(what, best(small, here.directory), bare=2)


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
    yield from large_of("davs, XRootD", least, bare=0.85, gfal_copy=1.7)
    urls = under(f"{davs}/small", here.files.small)
    small: dict[str, Way] = {
        "bare": lambda into: moves.get([_https(url) for url in urls], into, ca),
        "ours": partial(ours.small, f"{davs}/small"),
        "gfal2's API": lambda into: tools.gfal2(urls, into, ca, ca_dir),
        "rclone (no adler32)": lambda into: tools.rclone(https, "small", into, ca, "webdav"),
    }
    least = best(small, here.directory)
    yield from small_of("davs, XRootD", least, bare=2, gfal2=0.5, rclone=0.2)


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
            [large], under(f"{_https(url)}/{into.name}", [large]), ca, sums=True)),
        "ours": partial(up, ours.put_large),
        "gfal-copy -K": partial(up, lambda url, into: tools.gfal_copy(
            f"file://{large}", f"{url}/{into.name}/large", here.xrootd.facts["ca_dir"])),
    }  # fmt: skip
    yield from large_of("upload, davs, XRootD", best(ways, into), bare=0.8)
    ways = {
        "bare": partial(up, lambda url, into: moves.put(
            small, under(f"{_https(url)}/{into.name}", small), ca, sums=True)),
        "ours": partial(up, ours.put_small),
        "PUT alone": partial(up, lambda url, into: moves.put(
            small, under(f"{_https(url)}/{into.name}", small), ca)),
    }  # fmt: skip
    yield from small_of("upload, davs, XRootD", best(ways, into), bare=2)


def _https(davs: str) -> str:
    return davs.replace("davs:", "https:", 1)
