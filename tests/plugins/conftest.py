"""Plugins of a distribution outside the tree: `examples/plugins`."""

from __future__ import annotations

import importlib.metadata
import shutil
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

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
