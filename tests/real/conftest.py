"""What real tests of movers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plugins.data.moving import system_module
from tests.pilot.helpers import guarded
from tests.real.storages import LIBRARIES, Site


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A storage and its mover, whose name is the parameter; see `tests.real.storages`."""
    name = request.param
    try:
        system_module(LIBRARIES[name])
    except ImportError:
        pytest.skip(f"no {LIBRARIES[name]} for this Python: its package, or the extra {name}")
    service = request.getfixturevalue("ceph" if name == "s3" else "xrootd")
    with guarded() as spawner:
        made = Site(name, service, spawner, request.getfixturevalue("tmp_path"))
        yield made
        made.close()
