"""X.509 proxies for https: who has one is known to the storage that it is for, and to no other."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from ailurus.protocol.url import Url
from pilot.ports import JobError
from plugins.data.http import Http
from tests.plugins.http_stores import Store, nothing, serving
from tests.rig.grid_trust import Authority, Holder


class Who(Store):
    """Says who asks: the names in the client's certificate, below the organization."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "to:" in self.path:
            self.send_response(307)
            self.send_header("Location", unquote(self.path).partition("to:")[2].replace("|", "/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        named: Any = self.connection.getpeercert()
        pairs = [pair for part in named.get("subject", ()) for pair in part] if named else []
        names = [name for key, name in pairs if key == "commonName"]
        self._answer(200, f"{names[0]}, {len(names) - 1}".encode() if names else b"nobody")


class Grid:
    """An authority with two users, and what its hosts show and ask for."""

    def __init__(self, directory: Path) -> None:
        authority = Authority()
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(authority.own.pem)
        host = authority.host()
        (directory / "host.pem").write_bytes(host.pem + host.key_pem)
        self.alice, self.bob = authority.user("alice"), authority.user("bob")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(directory / "host.pem")
        self.tls.load_verify_locations(self.ca)
        self.tls.verify_mode = ssl.CERT_OPTIONAL
        self.tls.verify_flags |= ssl.VerifyFlags.VERIFY_ALLOW_PROXY_CERTS


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture
def who(grid: Grid) -> Iterator[type[Store]]:
    with serving(Who, grid.tls) as made:
        yield made


@pytest.fixture
def proxy(tmp_path: Path, grid: Grid) -> Path:
    path = tmp_path / "x509up"
    path.write_text(grid.alice.proxy())
    return path


def site(grid: Grid, who: type[Store], proxy: Path, **more: object) -> Http:
    options = {"proxy": str(proxy), "token_for": [f"{who.url}/own/"], **more}
    return Http(http_allow=[f"{who.url}/"], ca=str(grid.ca), options=options)


def said(transfer: Http, url: str, into: int) -> str:
    """What comes from `url`."""
    os.ftruncate(into, 0)
    os.lseek(into, 0, os.SEEK_SET)
    transfer.get(Url.parse(url), into, nothing, md5=False)
    return os.pread(into, 100, 0).decode()


def test_the_sites_proxy_is_shown_to_its_own_storage_alone(grid, who, proxy, into):
    made = site(grid, who, proxy)
    assert said(made, f"{who.url}/own/x", into) == "alice, 1"
    assert said(made, f"{who.url}/others/x", into) == "nobody"
    assert said(made, f"{who.url}/own/y", into) == "alice, 1"


def test_a_redirect_out_of_its_storage_is_followed_without_it(grid, who, proxy, into):
    with serving(Who, grid.tls) as pool:
        made = site(grid, who, proxy)
        made._requests.prefixes.append(Url.parse(f"{pool.url}/"))
        away = f"{pool.url}/own/x".replace("/", "|")
        assert said(made, f"{who.url}/own/to:{away}", into) == "nobody"
        assert pool.asked == ["/own/x"]


def test_a_renewed_proxy_is_used_for_the_next_file(grid, who, proxy, into):
    made = site(grid, who, proxy)
    assert said(made, f"{who.url}/own/x", into) == "alice, 1"
    renewed = proxy.with_name("renewed")
    renewed.write_text(grid.bob.proxy())
    renewed.replace(proxy)
    assert said(made, f"{who.url}/own/x", into) == "bob, 1"


def test_a_users_proxy_goes_in_place_of_the_sites_token_and_proxy(grid, who, proxy, into, tmp_path):
    (tmp_path / "token").write_text("the site's")
    made = site(grid, who, proxy, token_file=str(tmp_path / "token"))
    users = made.as_user("", grid.bob.proxy())
    own = Url.parse(f"{who.url}/own/x")
    assert said(users, f"{who.url}/others/x", into) == "bob, 1"
    assert said(users, own.text, into) == "bob, 1"
    assert users._requests.identity.token(own) == ""
    assert said(made, own.text, into) == "alice, 1"


def test_a_proxy_never_goes_in_the_clear(grid, who, proxy):
    plain = Url.parse("http://127.0.0.1/own/x")
    made = site(grid, who, proxy, token_for=["http://127.0.0.1/"])
    assert made._requests.identity.proxy(plain) == ""
    assert made.as_user("t", grid.bob.proxy())._requests.identity.proxy(plain) == ""


def locked(user: Holder) -> str:
    form, secret = PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"word")
    return (user.pem + user.key.private_bytes(Encoding.PEM, form, secret)).decode()


@pytest.mark.parametrize("what", ["no PEM", "another's key", "a locked key", "nothing"])
def test_what_is_no_proxy_is_said_with_its_remedy(grid, who, proxy, into, what):
    texts = {
        "no PEM": "abc",
        "another's key": (grid.alice.pem + grid.bob.key_pem).decode(),
        "a locked key": locked(grid.alice),
    }
    if what == "nothing":
        proxy.unlink()
    else:
        proxy.write_text(texts[what])
    with pytest.raises(JobError, match="proxy") as raised:
        said(site(grid, who, proxy), f"{who.url}/own/x", into)
    assert "PEM" in raised.value.remedy or "storage.http.proxy" in raised.value.remedy
    assert who.asked == []


def test_of_a_server_that_refuses_the_proxy_it_is_said_that_one_was_shown(grid, who, proxy, into):
    proxy.write_text(grid.alice.proxy(-60))
    with pytest.raises(JobError) as raised:
        said(site(grid, who, proxy), f"{who.url}/own/x", into)
    assert "may have expired" in raised.value.remedy
    assert who.asked == []
