"""TLS at the door: certificates are read anew, clients trust whom they are told, tokens never
travel in the clear."""

from __future__ import annotations

import hashlib
import signal
import socket
import ssl
from urllib.parse import urlsplit

import pytest
import trustme

from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Client, Unreachable
from ailurus.wire.credentials import TokenFile, Trust, fixed_token
from ailurus.wire.retry import Patience
from dispatcher.cli import main
from pilot import options
from tests.rig.waiting import until


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(serve, ca, tmp_path):
    """A dispatcher with a certificate of `ca`, and a way to give it another one."""
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")

    def renew() -> None:
        made = ca.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))

    renew()
    running = serve("--tls-cert", str(chain), "--tls-key", str(key))
    running.renew, running.ca = renew, str(tmp_path / "ca.pem")
    running.chain = chain
    return running


def shown(server) -> bytes:
    """The certificate that it shows now, as DER."""
    address = urlsplit(server.url)
    context = ssl.create_default_context(cafile=server.ca)
    with (
        socket.create_connection((address.hostname, address.port), timeout=10) as line,
        context.wrap_socket(line, server_hostname="127.0.0.1") as secure,
    ):
        certificate = secure.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def client(server, trust: Trust) -> Client:
    return Client(
        server.url, TokenFile(server.token_file), trust=trust, patience=Patience(total_s=0)
    )


def test_a_client_speaks_only_to_whom_it_trusts(secured):
    assert secured.url.startswith("https://")
    pin = hashlib.sha256(shown(secured)).hexdigest()
    assert client(secured, Trust(ca=secured.ca)).overview().version
    assert client(secured, Trust(pin=pin)).overview().version
    for nobody in (Trust(), Trust(pin="0" * 64)):
        with pytest.raises(Unreachable):
            client(secured, nobody).overview()


def test_another_authority_is_not_trusted(secured, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(Unreachable, match=r"(?i)certificate"):
        client(secured, Trust(ca=str(tmp_path / "other.pem"))).overview()


def test_verbs_take_authority_and_pin_from_options_and_environment(secured, monkeypatch, capsys):
    words = ["status", "--url", secured.url, "--token-file", str(secured.token_file)]
    assert main(words) != 0
    assert main([*words, "--ca", secured.ca]) == 0
    monkeypatch.setenv(
        "AILURUS_PIN", "SHA256:" + hashlib.sha256(shown(secured)).hexdigest().upper()
    )
    assert main(words) == 0
    monkeypatch.setenv("AILURUS_PIN", "12")
    assert main(words) != 0
    assert "is no SHA-256" in capsys.readouterr().err


def test_a_renewed_certificate_is_shown_after_hup_and_a_bad_one_never(secured):
    before = shown(secured)
    secured.renew()
    secured.process.send_signal(signal.SIGHUP)
    until(lambda: shown(secured) != before)
    after = shown(secured)
    secured.chain.write_text("no certificate")
    secured.process.send_signal(signal.SIGHUP)
    until(lambda: "certificate_refused" in (secured.directory / "serve.log").read_text())
    assert shown(secured) == after
    assert client(secured, Trust(ca=secured.ca)).overview().version


@pytest.mark.parametrize(
    "url",
    ["http://example.org:8080", "http://192.0.2.1", "http://[2001:db8::1]:1", "http://0.0.0.0"],
)
def test_no_token_is_sent_in_the_clear_beyond_this_machine(url):
    with pytest.raises(AilurusError, match="plain HTTP") as caught:
        Client(url, fixed_token("secret"))
    assert "https" in caught.value.remedy
    Client(url)  # without a token there is nothing to read


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://127.9.9.9",
        "http://[::1]:1",
        "http://localhost:1",
        "https://example.org",
    ],
)
def test_loopback_and_tls_are_fine(url):
    Client(url, fixed_token("secret"))


def test_a_pilot_is_told_whom_to_trust(tmp_path):
    (tmp_path / "ca.pem").touch()
    argv = ["--url", "https://d", "-q", "q", "-a", str(tmp_path)]
    given = options.parse([*argv, "--ca", str(tmp_path / "ca.pem")], {})
    assert given.trust == Trust(ca=str(tmp_path / "ca.pem"))
    assert options.parse(argv, {"AILURUS_PIN": "AB" * 32}).trust == Trust(pin="ab" * 32)
    with pytest.raises(AilurusError, match="there is no file"):
        options.parse([*argv, "--ca", "/nowhere"], {})
