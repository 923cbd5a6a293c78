"""What gfal2 says, in our words."""

from __future__ import annotations

import errno

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from plugins.data.gfal2 import UNKNOWN_S, address, explained, kind, time_s
from plugins.data.moving import Failure, Way

URL = Url.parse("davs://host/store/f")


@pytest.mark.parametrize(
    ("number", "meant"),
    [
        (errno.ENOENT, Failure.MISSING),
        (errno.EEXIST, Failure.EXISTS),
        (errno.EPERM, Failure.DENIED),
        (errno.EACCES, Failure.UNKNOWN_USER),
        (errno.ENOSPC, Failure.FULL),
        (errno.ETIMEDOUT, Failure.STALLED),
        (errno.EHOSTDOWN, Failure.UNREACHABLE),
        (errno.EPROTONOSUPPORT, Failure.UNSUPPORTED),
        (errno.ECOMM, Failure.FAILED),
        (0, Failure.FAILED),
    ],
)
def test_an_errno_says_what_is_wrong(number, meant):
    assert kind(number) is meant


def test_no_space_is_the_nodes_where_the_storage_is_only_read():
    assert explained(Way.IN, URL, errno.ENOSPC, "").code is Code.NO_LOCAL_SPACE
    assert explained(Way.OUT, URL, errno.ENOSPC, "").code is Code.STAGE_OUT_FAILED


def test_a_files_time_grows_with_its_size():
    assert time_s(0, 60) == 60
    assert time_s(10**9, 60) == 60 + 10_000
    assert time_s(None, 60) == 60 + UNKNOWN_S


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("davs://host:1443/store/a%20b?x=1", "davs://host:1443/store/a%20b?x=1"),
        ("root://host:1094/store/a%20b", "root://host:1094//store/a b"),
        ("root://host//store/f", "root://host//store/f"),
    ],
)
def test_an_address_is_as_the_server_knows_it(url, given):
    assert address(Url.parse(url)) == given
