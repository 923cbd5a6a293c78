"""An answer of a proxy is shown as a sentence, never as a page."""

from __future__ import annotations

import pytest

from ailurus.protocol.messages import Done
from ailurus.wire.client import Client, Nonsense, Refused, Unreachable
from ailurus.wire.retry import Patience
from ailurus.wire.strangers import words

NGINX = b"""<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n
<center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (NGINX, "413 Request Entity Too Large"),
        (b"<!DOCTYPE html><TITLE>\n Bad &amp; sad\n</TITLE>", "Bad & sad"),
        (b"<!DOCTYPE html><title>Bad &amp; sad</title>", "Bad & sad"),
        (b"<h1>no title</h1>", ""),
        (b"upstream connect error\nmore", "upstream connect error"),
        (b"\x1b[31mred\x07\x00", "[31mred"),
        (b"\xff\xfe\x00\x01", ""),
        (b"", ""),
        (b"x" * 10_000, "x" * 119 + "…"),
        (b"<title>" + b"<" * 100_000, ""),
        (b'{"error": "no"}', '{"error": "no"}'),
    ],
)
def test_of_a_body_one_line_is_shown(body, said):
    assert words(body) == said


@pytest.fixture
def client(monkeypatch):
    made = Client("http://127.0.0.1:1", patience=Patience(total_s=0.0))

    def answer(status: int, body: bytes) -> Client:
        monkeypatch.setattr(made, "_once", lambda *_, **__: (status, body))
        return made

    return answer


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 418, 499])
def test_a_page_of_a_proxy_is_a_sentence_with_its_status(client, status):
    with pytest.raises(Refused) as refused:
        client(status, NGINX).call("sign_out", answer=Done)
    told = str(refused.value)
    assert f"HTTP {status}" in told
    assert "<" not in told
    assert "\n" not in told
    assert refused.value.remedy


def test_a_gateway_without_a_dispatcher_is_nobody(client):
    with pytest.raises(Unreachable, match="HTTP 502 Bad Gateway"):
        client(502, NGINX).call("sign_out", answer=Done)


@pytest.mark.parametrize("status", [200, 302])
def test_a_page_in_place_of_an_answer_is_named_as_one(client, status):
    with pytest.raises(Nonsense) as nonsense:
        client(status, NGINX).call("sign_out", answer=Done)
    assert "«413 Request Entity Too Large»" in str(nonsense.value)
    assert "<" not in str(nonsense.value)
