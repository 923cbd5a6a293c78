"""Plugins of a distribution outside the tree: `examples/plugins`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import threading
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from plugins.data.http import Http
from tests.plugins.http_stores import DATA, Door, Pool, Store, serving

EXAMPLE = Path(__file__).parents[2] / "examples/plugins"


@pytest.fixture
def installed(tmp_path, monkeypatch) -> dict[str, str]:
    """The example as it is installed; the environment that a program needs to see it.

    scripts/test installs it beside the wheel. In a tree nothing is installed: what an installer
    would write lies in a folder on the path.
    """
    with suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("ailurus-example-plugins")
        return {}
    folder = tmp_path / "site-packages"
    info = folder / "ailurus_example_plugins-1.dist-info"
    info.mkdir(parents=True)
    shutil.copytree(EXAMPLE / "example_plugins", folder / "example_plugins")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1\n")
    lines = [
        f"{name} = {where}" if where else f"[{name}]"
        for group, points in project["entry-points"].items()
        for name, where in [(group, ""), *points.items()]
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(folder))
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def store() -> Iterator[type[Store]]:
    handler = type(
        "Handler", (Store,), {"files": {"/ok/data": DATA, "/no/data": DATA}, "asked": []}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def transfer(store) -> Iterator[Http]:
    made = Http(http_allow=[store.url + "/ok/"])
    yield made
    made._requests.anonymous.clear()


@pytest.fixture
def into(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.fixture
def pool() -> Iterator[type[Store]]:
    with serving(Pool) as made:
        yield made


@pytest.fixture
def door(pool) -> Iterator[type[Door]]:
    with serving(Door, location=f"{pool.url}/data/xyz?door=1") as made:
        yield made
