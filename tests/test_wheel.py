"""Which code is tested: the tree's, or in the environment of `scripts/setup --wheel` what is
installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import ailurus
import dispatcher
import harvester_edge
import pilot
import plugins

PREFIX = Path(sys.prefix)
HOME = PREFIX if PREFIX.name == ".venv-wheel" else Path(__file__).parents[1]


@pytest.mark.parametrize("package", [ailurus, dispatcher, harvester_edge, pilot, plugins])
def test_a_package_is_imported_from_where_it_is_tested(package):
    assert Path(package.__file__).is_relative_to(HOME)
    assert Path(package.__file__).is_relative_to(PREFIX) == (HOME == PREFIX)
