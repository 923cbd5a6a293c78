"""What movers share, without a storage."""

from __future__ import annotations

import hashlib
import os
import zlib

import pytest
from msgspec.structs import replace

from ailurus import token_discovery
from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import JobError, LeftBehind
from plugins.data.moving import (
    Failure,
    GridOptions,
    Way,
    failure,
    measured,
    not_moved,
    padded,
    set_environment,
    system_module,
)

URL = Url.parse("davs://user:secret@host/store/f?authz=secret")


@pytest.mark.parametrize("kind", Failure)
@pytest.mark.parametrize("way", Way)
def test_each_trouble_has_a_code_of_its_way_and_shows_no_secret(kind, way):
    error = failure(way, kind, URL, "cannot open davs://host/store/f?authz=secret now")
    wrong = "OUT" if way is Way.IN else "IN"
    assert f"STAGE_{wrong}" not in error.code.name
    assert "davs://host/store/f" in error.message
    assert "secret" not in str(error)
    assert error.remedy or kind is Failure.MISSING


def test_a_late_a_wrong_and_a_missing_file_have_codes_of_their_own():
    codes = [
        failure(way, kind, URL).code
        for kind in (Failure.STALLED, Failure.WRONG, Failure.MISSING)
        for way in Way
    ]
    assert codes == [
        Code.STAGE_IN_TIMEOUT,
        Code.STAGE_OUT_TIMEOUT,
        Code.GET_ADLER_MISMATCH,
        Code.PUT_ADLER_MISMATCH,
        Code.NO_SUCH_FILE,
        Code.NO_SUCH_FILE,
    ]


def test_a_file_is_measured(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(data)
    found = measured(str(tmp_path / "f"), md5=True)
    assert (found.size, found.adler32) == (len(data), f"{zlib.adler32(data):08x}")
    assert found.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert measured(str(tmp_path / "f")).md5 is None
    assert padded("2A8014B") == "02a8014b"


def test_only_the_sites_credentials_are_in_the_environment(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("x")
    environment = {"X509_USER_PROXY": "/tmp/theirs", "XRD_LOGLEVEL": "Dump", "PATH": "/bin"}
    monkeypatch.setattr("os.environ", environment)
    set_environment(GridOptions(token_file=str(token)))
    assert environment == {"BEARER_TOKEN_FILE": str(token), "PATH": "/bin"}


def test_a_token_that_is_looked_for_is_looked_for_anew(tmp_path, monkeypatch):
    token = tmp_path / f"bt_u{os.getuid()}"
    token.write_text("x")
    environment = {"BEARER_TOKEN": "theirs", "PATH": "/bin"}
    monkeypatch.setattr("os.environ", environment)
    started_with = {"BEARER_TOKEN": "mine"}
    monkeypatch.setattr(token_discovery, "STARTED_WITH", started_with)
    options = GridOptions(token_file=token_discovery.DISCOVERED)
    set_environment(options)
    assert environment == {"BEARER_TOKEN": "mine", "PATH": "/bin"}
    started_with.clear()
    started_with["XDG_RUNTIME_DIR"] = str(tmp_path)
    set_environment(options)
    assert environment == {"BEARER_TOKEN_FILE": str(token), "PATH": "/bin"}
    token.unlink()
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    with pytest.raises(JobError, match=f"finds no token: .*{tmp_path}") as caught:
        set_environment(options)
    assert (caught.value.code, caught.value.transient) == (Code.SERVICE_UNAVAILABLE, True)


def test_a_credential_that_cannot_be_read_is_named():
    with pytest.raises(JobError, match="proxy /no/such/proxy") as caught:
        set_environment(GridOptions(proxy="/no/such/proxy"))
    assert (caught.value.code, caught.value.transient) == (Code.SERVICE_UNAVAILABLE, True)


def test_an_upload_that_left_something_is_told_as_it_is_and_with_that():
    why = failure(Way.OUT, Failure.UNREACHABLE, URL)
    plain, left = not_moved(1, why), not_moved(1, LeftBehind(why))
    assert (plain.left, left.left) == (False, True)
    assert replace(left, left=False) == plain


def test_a_module_that_no_system_has_is_an_import_error():
    with pytest.raises(ImportError, match="no_such_transfer_library"):
        system_module("no_such_transfer_library")
