"""Payloads under a supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.site import Limits
from tests.pilot.node.watch import USUAL, Watch, watch_of


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    yield from watch_of(tmp_path)


@pytest.fixture
def watched(tmp_path: Path):
    """Makes a watch with limits of its own; ended with the test."""
    made: list[Iterator[Watch]] = []

    def make(limits: Limits = USUAL, **fields: object) -> Watch:
        made.append(watch_of(tmp_path, limits, **fields))
        return next(made[-1])

    yield make
    for one in made:
        next(one, None)
