"""A token that is read from its file, again when it is refused."""

from __future__ import annotations

import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile, fixed_token


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe", b"two words", b"two\nlines", b"a\x00b"]
)
def test_a_file_without_a_token_is_named(tmp_path, content):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AilurusError) as refused:
        TokenFile(path)()
    assert str(path) in refused.value.message
    assert refused.value.remedy


def test_while_the_file_is_being_written_the_old_token_stays(tmp_path):
    """Whoever runs for weeks must not end because of one moment: it is refused, and asks again."""
    path = tmp_path / "token"
    path.write_text("old\n")
    token = TokenFile(path)
    assert token() == "old"
    path.unlink()
    assert token(fresh=True) == "old"
    path.write_bytes(b"\xff")
    assert token(fresh=True) == "old"
    path.write_text("new")
    assert (token(), token(fresh=True)) == ("old", "new")


@pytest.mark.parametrize("url", ["http://[::1", "http://u:hunter2@[x", "ftp://h/?t=hunter2"])
def test_an_address_that_is_none_is_told_without_its_password(url):
    with pytest.raises(AilurusError) as caught:
        Client(url, fixed_token("t"))
    assert "hunter2" not in str(caught.value)
