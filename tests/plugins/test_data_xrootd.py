"""What XRootD's client says, in our words."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url
from plugins.data.moving import Failure, Way
from plugins.data.xrootd import explained, kind, path_of, settings

URL = Url.parse("root://host:1094//store/a%20b?authz=secret")


@pytest.mark.parametrize(
    ("code", "number", "meant"),
    [
        (400, 3009, Failure.FULL),
        (400, 3010, Failure.DENIED),
        (400, 3011, Failure.MISSING),
        (400, 3018, Failure.EXISTS),
        (400, 3021, Failure.FULL),
        (400, 3030, Failure.UNKNOWN_USER),
        (400, 9999, Failure.FAILED),
        (103, 0, Failure.STALLED),
        (206, 0, Failure.STALLED),
        (108, 0, Failure.UNREACHABLE),
        (204, 0, Failure.UNKNOWN_USER),
        (305, 0, Failure.WRONG),
        (9999, 0, Failure.FAILED),
    ],
)
def test_a_status_says_what_is_wrong(code, number, meant):
    assert kind(code, number) is meant


def test_what_this_node_lacks_is_the_nodes_fault():
    status = SimpleNamespace(code=402, errno=errno.ENOSPC, message="")
    assert explained(Way.IN, URL, status).code is Code.NO_LOCAL_SPACE


def test_an_error_shows_no_secrets():
    status = SimpleNamespace(code=400, errno=3010, message="[3010] /store/a?authz=secret denied")
    assert "secret" not in str(explained(Way.OUT, URL, status))


def test_a_path_is_decoded_for_servers_that_do_not():
    assert path_of(URL) == "/store/a b?authz=secret"


def test_a_name_that_the_library_would_cut_is_refused():
    with pytest.raises(AilurusError, match="XRootD would cut it there"):
        path_of(Url.parse("root://host//store/a%3Fb"))


def test_a_silent_server_is_noticed_within_the_sites_time():
    assert settings(8)["RequestTimeout"] == 8
    assert settings(8)["TimeoutResolution"] == 2
    assert settings(600)["ConnectionWindow"] == 30


def test_a_server_that_was_away_is_asked_again_at_once():
    assert settings(60)["StreamErrorWindow"] == 0
