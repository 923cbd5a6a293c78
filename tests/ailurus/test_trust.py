"""Whom a program believes, on nodes that keep their authorities elsewhere than its Python
thinks."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from ailurus.wire import connection
from ailurus.wire.credentials import Trust

CA = trustme.CA()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """A node on which nothing lies where this Python's OpenSSL looks, as the frozen pilot meets
    it."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "certs").mkdir()
    nowhere = ssl.DefaultVerifyPaths(
        None, str(tmp_path / "certs"), "SSL_CERT_FILE", "no", "SSL_CERT_DIR", "no"
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    bundle = tmp_path / "ca-bundle.crt"
    monkeypatch.setattr(connection, "AUTHORITIES", (str(tmp_path / "absent"), str(bundle)))
    return bundle


def names(context: ssl.SSLContext) -> list[str]:
    return [str(ca["serialNumber"]) for ca in context.get_ca_certs()]


@pytest.mark.field("W5")
def test_authorities_are_found_where_other_systems_keep_them(elsewhere: Path) -> None:
    assert connection.authorities() is None
    CA.cert_pem.write_to_path(elsewhere)
    assert connection.authorities() == str(elsewhere)
    assert len(names(connection.verifying())) == 1
    assert Trust().pool(1).connection_pool_kw["ca_certs"] == str(elsewhere)
    assert Trust(ca="mine").pool(1).connection_pool_kw["ca_certs"] == "mine"


@pytest.mark.field("W5")
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_the_environment_says_goes_first(elsewhere: Path, tmp_path, monkeypatch, name) -> None:
    CA.cert_pem.write_to_path(elsewhere)
    monkeypatch.setenv(name, str(tmp_path / "own"))
    assert connection.authorities() is None


@pytest.mark.field("W5")
def test_a_python_that_finds_its_own_is_left_alone(elsewhere: Path, tmp_path: Path) -> None:
    CA.cert_pem.write_to_path(elsewhere)
    (tmp_path / "certs" / "ab12cd34.0").touch()
    assert connection.authorities() is None


@pytest.mark.field("W5")
def test_an_authority_of_ours_is_believed_beside_the_machines(elsewhere: Path, tmp_path) -> None:
    CA.cert_pem.write_to_path(elsewhere)
    own = tmp_path / "own.pem"
    trustme.CA().cert_pem.write_to_path(own)
    assert len(set(names(connection.verifying(str(own))))) == 2
