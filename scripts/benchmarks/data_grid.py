"""Files by root, S3 and Rucio: what children of the pilot move."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bare import moves, tools
from benchmarks.data_figures import Here, Ours, Way, large_of, small_of
from benchmarks.data_files import FILES, best, under
from benchmarks.stager import Stager
from tests.rig.figure import Figure, figure
from tests.rig.rucio import storage
from tests.rig.services import Service, running

# Run by the fixture's own Python: a data set of files that lie in the store already.
_REGISTER = """
import json, sys
from rucio.client import Client
client = Client()
rse, names, sizes, adler32s = json.load(open(sys.argv[1]))
pfns = client.lfns2pfns(rse, [f"data:{name}" for name in names])
print(json.dumps([pfns[f"data:{name}"] for name in names]))
client.add_replicas(rse, [
    {"scope": "data", "name": name, "bytes": size, "adler32": adler32}
    for name, size, adler32 in zip(names, sizes, adler32s)
])
client.add_dataset("data", "set")
client.attach_dids("data", "set", [{"scope": "data", "name": name} for name in names])
"""
_LOOK_UP = """
import time
from rucio.client import Client
client = Client()
client.ping()
took = []
for _ in range(5):
    began = time.perf_counter()
    found = list(client.list_replicas([{"scope": "data", "name": "set"}], schemes=["root"]))
    took.append(time.perf_counter() - began)
print(min(took))
"""


def root(here: Here) -> Iterator[Figure]:
    """By XRootD's own protocol."""
    facts = here.xrootd.facts
    served = f"{facts['root']}/served"
    own = here.directory / "stager-root"
    options = {"allow": [f"{facts['root']}/"], "xrootd": {"ca_dir": facts["ca_dir"]}}
    with Stager(own, options) as stager:
        ours = Ours(stager, here.files)
        ways: dict[str, Way] = {
            "xrdcp -C adler32": lambda into: tools.xrdcp(f"{served}/large", into / "large"),
            "ours": partial(ours.large, f"{served}/large"),
        }
        yield from large_of("root, XRootD", best(ways, here.directory), xrdcp=1 / 1.1)
        ways = {
            "xrdcp -r": lambda into: tools.xrdcp("-r", "--parallel", 4, f"{served}/small/", into),
            "ours": partial(ours.small, f"{served}/small"),
        }
        yield from small_of("root, XRootD", best(ways, here.directory), xrdcp=1.3)
        yield from _root_uploads(here, ours)
        yield from ours.cpu("root")
        processes = len({path.name for path in (own / "movers").glob("xrootd-*")})
        yield figure("data: root, processes for all files", processes, at_most=1)


def _root_uploads(here: Here, ours: Ours) -> Iterator[Figure]:
    store = Path(here.xrootd.facts["store"])
    up = store / "root-up"
    up.mkdir()
    base = f"{here.xrootd.facts['root']}/{up.name}"

    def theirs(into: Path) -> float | None:
        shutil.chown(into, store.owner(), store.group())
        source = here.files.small[0].parent
        return tools.xrdcp("-r", "--parallel", 4, source, f"{base}/{into.name}/")

    def our(into: Path) -> float:
        shutil.chown(into, store.owner(), store.group())
        return ours.put_small(base, into)

    least = best({"xrdcp -r": theirs, "ours": our}, up)
    yield from small_of("upload, root, XRootD", least)


def s3(here: Here) -> Iterator[Figure]:
    """From a Ceph's gateway. Uploads are small: what is deleted there goes much later."""
    with running("ceph") as ceph:
        facts = ceph.facts
        sign = moves.signer(facts["access_key"], facts["secret_key"])
        bucket = f"{facts['url']}/{facts['bucket']}"
        moves.put([here.files.large], [f"{bucket}/large"], sign=sign)
        moves.put(here.files.small, under(f"{bucket}/small", here.files.small), sign=sign)
        keys = here.directory / "s3.keys"
        keys.touch(0o600)
        keys.write_text(
            f"[default]\naws_access_key_id={facts['access_key']}\n"
            f"aws_secret_access_key={facts['secret_key']}\n",
            encoding="utf-8",
        )
        there = f"s3://{facts['bucket']}"
        options = {
            "allow": [f"{there}/"],
            "s3": {"endpoint": facts["url"], "keys_file": str(keys)},
        }
        with Stager(here.directory / "stager-s3", options) as stager:
            ours = Ours(stager, here.files)
            ways: dict[str, Way] = {
                "bare": lambda into: moves.get([f"{bucket}/large"], into, sign=sign),
                "ours": partial(ours.large, f"{there}/large"),
            }
            yield from large_of("S3, Ceph", best(ways, here.directory), bare=0.85)
            urls = under(f"{bucket}/small", here.files.small)
            ways = {
                "bare": lambda into: moves.get(urls, into, sign=sign),
                "ours": partial(ours.small, f"{there}/small"),
            }
            yield from small_of("S3, Ceph", best(ways, here.directory), bare=1 / 0.85)
            ways = {
                "bare": lambda into: moves.put(
                    here.files.small, under(f"{bucket}/{into.name}", here.files.small), sign=sign
                ),
                "ours": partial(ours.put_small, there),
            }
            yield from small_of("upload, S3, Ceph", best(ways, here.directory), bare=2)
            yield from ours.cpu("S3")


def rucio(here: Here) -> Iterator[Figure]:
    """A data set, beside the same files by their protocol alone and one look-up."""
    with running("rucio") as server:
        pfns = _registered(here, server)
        look_up_s = float(server.ask("as", "root", "python", "-c", _LOOK_UP).splitlines()[-1])
        site: dict[str, Any] = storage(server, "ROOT")
        site["allow"] = [pfns[0].partition("/store")[0]]
        site["protocols"] = {"read_lan": ["root"]}
        with Stager(here.directory / "stager-rucio", site) as stager:
            sizes = [file.stat().st_size for file in here.files.small]
            alone, whole = "root alone", "ours"

            def by_root(into: Path) -> float:
                del into
                return stager.get(pfns, here.files.small_adler32s, sizes).seconds

            def by_rucio(into: Path) -> float:
                del into
                return stager.data_set("rucio://data:set").seconds

            least = best({alone: by_root, whole: by_rucio}, here.directory)
            yield figure(
                f"data: a data set of {FILES} × 64 KiB, Rucio, root",
                1000 * least[whole] / FILES,
                "ms",
                peer=1000 * (least[alone] + look_up_s) / FILES,
                at_most=1.1,
                note=f"peer: root alone and one look-up of {1000 * look_up_s:.0f} ms",
            )


def _registered(here: Here, server: Service) -> list[str]:
    """Have the small files in a data set; where each lies."""
    names = [file.name for file in here.files.small]
    sizes = [file.stat().st_size for file in here.files.small]
    told = here.directory / "register.json"
    told.write_text(json.dumps(["ROOT", names, sizes, here.files.small_adler32s]), encoding="utf-8")
    said = server.ask("as", "root", "python", "-c", _REGISTER, told)
    pfns: list[str] = json.loads(said.splitlines()[-1])
    data = Path(server.facts["xrootd"]["store"]).parent
    for file, pfn in zip(here.files.small, pfns, strict=True):
        path = data / pfn.split("://", 1)[1].partition("/")[2].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)
    return pfns
