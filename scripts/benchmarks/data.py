"""Files through the pilot's staging, beside a bare loop and the tools: all with adler32, but where
a tool has none."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Iterator

from benchmarks import data_grid, data_http
from benchmarks.data_figures import Here
from benchmarks.data_files import Files, place
from tests.rig.figure import Figure
from tests.rig.services import running

PARTS = {
    "file": data_http.local,
    "http": data_http.http,
    "root": data_grid.root,
    "s3": data_grid.s3,
    "rucio": data_grid.rucio,
}


def run(args: Namespace) -> Iterator[Figure]:
    """Each part in turn."""
    with place() as directory, running("xrootd") as xrootd:
        files = Files(directory / "served")
        shutil.copytree(directory / "served", f"{xrootd.facts['store']}/served")
        here = Here(directory, files, xrootd)
        for part in args.parts or PARTS:
            yield from PARTS[part](here)
