"""Dispatchers and queues to try pilots on, and the parts of one that runs on nothing real."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.workdir import Workdir
from tests.pilot.fakes import World
from tests.pilot.helpers import Dispatcher, Field


@pytest.fixture(scope="session")
def shared_dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    made = Dispatcher(tmp_path_factory.mktemp("dispatcher"))
    yield made
    made.kill()


@pytest.fixture
def own_dispatcher(tmp_path: Path) -> Iterator[Dispatcher]:
    """One that a test may kill."""
    directory = tmp_path / "dispatcher"
    directory.mkdir()
    made = Dispatcher(directory)
    yield made
    made.kill()


@pytest.fixture
def field(shared_dispatcher: Dispatcher, tmp_path: Path) -> Iterator[Field]:
    made = Field(shared_dispatcher, tmp_path, f"q{os.getpid()}-{tmp_path.name}"[:100])
    yield made
    made.end()


@pytest.fixture
def open_field(shared_dispatcher: Dispatcher) -> Iterator[Field]:
    """A field that other users reach: pytest closes its own directories to them whenever it
    starts."""
    directory = Path(tempfile.mkdtemp(prefix="ailurus-test-"))
    directory.chmod(0o755)
    made = Field(shared_dispatcher, directory, directory.name)
    yield made
    made.end()
    shutil.rmtree(directory)


@pytest.fixture
def frail(own_dispatcher: Dispatcher, tmp_path: Path) -> Iterator[Field]:
    """A field whose dispatcher may be killed."""
    made = Field(own_dispatcher, tmp_path, "frail")
    yield made
    made.end()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def work(tmp_path: Path) -> Workdir:
    made = Workdir(tmp_path / "1.1")
    made.make()
    return made
