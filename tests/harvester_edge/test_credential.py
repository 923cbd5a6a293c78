"""Credentials that somebody renews reach pilots whole, in time, and nobody else."""

from __future__ import annotations

import base64
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from harvester_edge import credential, doctor, metrics, shared_files
from harvester_edge.site import Site
from pilot import site as pilot_site
from tests.harvester_edge.conftest import make_world

HOUR = 3600.0


def token(expires: float | None, made: float | None = None) -> str:
    """A JWT that says of itself when it ends."""
    claims = {"sub": "pilot", "exp": expires, "iat": made}
    said = {name: value for name, value in claims.items() if value is not None}
    parts = (json.dumps(one).encode() for one in ({"alg": "none"}, said))
    head, body = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    return f"{head}.{body}."


def proxy(expires: float) -> str:
    """A certificate and its key in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pilot")])
    ends = datetime.fromtimestamp(expires, UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(ends - timedelta(hours=12))
        .not_valid_after(ends)
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (made.public_bytes(Encoding.PEM) + pem).decode()


class Grid:
    """A site with one credential, and the edge that hands it out."""

    def __init__(self, tree: dict, folder: Path) -> None:
        self.source = folder / "renewed"
        self.world = make_world({**tree, "credentials": {"grid": str(self.source)}})
        self.site: Site = self.world.edge.site
        self.copy = self.site.credentials_directory / "grid"

    @property
    def now(self) -> float:
        return self.world.clock()

    def renew(self, text: str, mode: int = 0o600) -> None:
        self.source.unlink(missing_ok=True)
        self.source.write_text(text)
        self.source.chmod(mode)

    def submits(self) -> bool:
        """Whether the edge starts a worker for a job that waits."""
        self.world.dispatcher.jobs = len(self.world.workers()) + 1
        before = len(self.world.batch.orders)
        self.world.cycle()
        return len(self.world.batch.orders) > before


@pytest.fixture
def grid(tree, tmp_path):
    made = Grid(tree, tmp_path)
    yield made
    made.world.edge.book.close()


@pytest.fixture
def umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_renewed_is_what_pilots_read_and_nobody_else(grid, umask):
    grid.renew(first := token(grid.now + HOUR))
    assert grid.submits()
    assert grid.copy.read_text() == first
    before = grid.copy.stat().st_ino
    grid.world.cycle()
    assert grid.copy.stat().st_ino == before
    grid.renew(second := proxy(grid.now + 12 * HOUR))
    grid.world.cycle()
    assert grid.copy.read_text() == second
    assert stat.S_IMODE(grid.copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(grid.copy.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["half", "expired", "open", "link", "empty", "gone", "directory"])
def test_what_cannot_be_used_replaces_nothing_that_can(grid, what, tmp_path):
    grid.renew(good := token(grid.now + HOUR))
    grid.world.cycle()
    match what:
        case "half":
            grid.renew(proxy(grid.now + HOUR)[:500])
        case "expired":
            grid.renew(token(grid.now - HOUR))
        case "open":
            grid.renew(token(grid.now + 2 * HOUR), 0o644)
        case "link":
            grid.source.rename(tmp_path / "elsewhere")
            grid.source.symlink_to(tmp_path / "elsewhere")
        case "empty":
            grid.renew("")
        case "gone":
            grid.source.unlink()
        case "directory":
            grid.source.unlink()
            grid.source.mkdir()
    handed = credential.hand_out(grid.site, grid.now)
    assert grid.copy.read_text() == good
    assert (handed.renewed, handed.faults) == ((), ())
    assert str(grid.source) in handed.warnings[0]
    assert good not in handed.warnings[0]
    assert grid.submits()


def test_without_a_good_credential_no_worker_starts_and_why_says_so(grid):
    assert not grid.submits()
    grid.renew(token(grid.now + 10))
    assert grid.submits()
    grid.world.clock.forward(20)
    assert not grid.submits()
    assert "credential grid" in grid.world.edge.decisions.last.sentence
    assert "expired" in grid.world.edge.decisions.last.sentence


@pytest.mark.parametrize("how", ["link", "changed", "open"])
def test_what_somebody_put_in_its_place_is_put_right(grid, how, tmp_path):
    grid.renew(good := token(grid.now + HOUR))
    grid.world.cycle()
    (other := tmp_path / "other").write_text("somebody's")
    if how == "link":
        grid.copy.unlink()
        grid.copy.symlink_to(other)
    elif how == "changed":
        grid.copy.write_text("another")
    else:
        grid.copy.chmod(0o644)
    grid.world.cycle()
    assert other.read_text() == "somebody's"
    assert (grid.copy.read_text(), grid.copy.is_symlink()) == (good, False)
    assert stat.S_IMODE(grid.copy.lstat().st_mode) == 0o600


def test_an_edge_that_is_killed_in_between_leaves_the_old_one_whole(grid, monkeypatch):
    grid.renew(first := token(grid.now + HOUR))
    grid.world.cycle()
    grid.renew(second := token(grid.now + 2 * HOUR))

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as here:
        here.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            credential.hand_out(grid.site, grid.now)
    assert grid.copy.read_text() == first
    credential.hand_out(grid.site, grid.now)
    assert grid.copy.read_text() == second
    assert [one.name for one in grid.copy.parent.iterdir()] == ["grid"]


def test_keys_and_opaque_tokens_are_handed_out_as_they_are(grid):
    grid.renew(keys := "[default]\naws_access_key_id = a\n")
    assert grid.submits()
    assert grid.copy.read_text() == keys
    assert credential.held(grid.site, "grid", grid.now).expires is None


def test_one_that_nobody_renews_is_told_before_it_ends(grid, tree, tmp_path):
    grid.renew(token(grid.now + 8 * HOUR, made=grid.now))
    assert credential.hand_out(grid.site, grid.now).warnings == ()
    (late,) = credential.hand_out(grid.site, grid.now + 7 * HOUR).warnings
    assert late.startswith("credential grid ends 1970-01-12")
    lines = (line.split() for line in metrics.page(grid.site).decode().splitlines())
    shown = {words[0]: float(words[-1]) for words in lines if words[0] != "#"}
    labels = '{credential="grid",site="demo"}'
    ends = shown[f"ailurus_edge_credential_expires_timestamp_seconds{labels}"]
    assert ends == grid.now + 8 * HOUR
    # By the clock of whoever asks.
    assert shown[f"ailurus_edge_credential_good{labels}"] == 0


def test_doctor_says_how_long_it_is_good(grid, tree, tmp_path):
    file = tmp_path / "site.yaml"
    file.write_bytes(msgspec.json.encode({**tree, "credentials": {"grid": str(grid.source)}}))

    def found() -> doctor.Finding:
        return next(one for one in doctor.examine(file) if one.about == "credential grid")

    assert (found().verdict, "cannot be read" in found().said) == ("bad", True)
    today = datetime.now(UTC).timestamp()
    grid.renew(token(today + 10 * HOUR, made=today))
    assert found().said.startswith("is good for 10.0 h more; pilots get it when the edge runs")
    grid.renew(token(today + HOUR, made=today - 9 * HOUR))
    assert (found().verdict, "nobody has renewed it" in found().said) == ("warning", True)
    grid.renew(token(today - HOUR))
    assert (found().verdict, "expired 60 min ago" in found().said) == ("bad", True)


def test_options_that_name_it_become_its_path(grid):
    storage = msgspec.structs.replace(
        grid.site.storage, xrootd={"proxy": "credential:grid", "token_file": "wlcg-discovery"}
    )
    site = msgspec.structs.replace(grid.site, storage=storage)
    told = json.loads(shared_files.content(site))
    # A token is looked for on the node.
    sought = {"token_file": "wlcg-discovery"}
    assert told["storage"]["xrootd"] == {"proxy": str(grid.copy), **sought}
    assert "credentials" not in told


def test_a_pilot_by_hand_reads_the_file_itself(tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text("credentials: {grid: /x/proxy}\nstorage: {xrootd: {proxy: credential:grid}}\n")
    site = pilot_site.read(file)
    assert site.storage.xrootd == {"proxy": "/x/proxy"}
    assert site.storage.secret_files() == [Path("/x/proxy")]


def test_copies_that_the_site_names_no_more_go_when_no_worker_may_read_them(grid):
    grid.renew(token(grid.now + HOUR))
    credential.hand_out(grid.site, grid.now)
    grid.world.edge.site = msgspec.structs.replace(grid.site, credentials={})
    assert grid.submits()
    grid.world.cycle(seconds=700)
    assert grid.copy.exists()
    grid.world.edge.workers.clear()
    grid.world.dispatcher.jobs = 0
    grid.world.edge.tidied_at = 0.0
    grid.world.cycle()
    assert not grid.copy.exists()
