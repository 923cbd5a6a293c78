"""The plugin of a site's batch system, found by its name."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def batch_class(kind: str) -> Any:
    """The plugin of a batch system; the edge knows it by its port only."""
    return import_module("plugins").load("batch", kind)
