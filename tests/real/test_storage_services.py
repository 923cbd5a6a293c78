"""What other tests may take for granted of the storage, the catalogue and the gateway that they
are given."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from email.utils import formatdate
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.rig.services import Service, busybox_image

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]

CONTENT = b"content\n" * 1000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def client(service: Service, *argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line client that trusts the service, and has no token but the one given."""
    usual = {k: v for k, v in os.environ.items() if k != "SSL_CERT_FILE"}
    trust = {"X509_CERT_DIR": service.facts["ca_dir"], "GFAL_PYTHONBIN": "/usr/bin/python3"}
    limits = {"XRD_CONNECTIONRETRY": "1", "XRD_REQUESTTIMEOUT": "10"}
    return subprocess.run(
        [*map(str, argv)],
        env={**usual, **trust, **limits, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def addresses(port: int) -> set[str]:
    """Where this machine listens on a port, as the kernel writes it."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    pairs = (line.split()[1].split(":") for line in lines if line.split()[3] == "0A")
    return {address for address, number in pairs if int(number, 16) == port}


def test_xrootd_listens_on_loopback_alone(xrootd):
    urls = [xrootd.facts[name] for name in ("root", "davs")] + list(xrootd.facts["token"].values())
    ports = {urlsplit(url).port for url in urls}
    loopback = socket.inet_aton("127.0.0.1")[::-1].hex().upper()
    assert len(ports) == 4
    assert {address for port in ports for address in addresses(port)} == {loopback}


def test_both_protocols_see_one_store(xrootd, source, tmp_path):
    back = tmp_path / "back"
    assert client(xrootd, "xrdcp", source, f"{xrootd.facts['root']}/a/b/file").returncode == 0
    copied = client(xrootd, "gfal-copy", f"{xrootd.facts['davs']}/a/b/file", f"file://{back}")
    assert copied.returncode == 0, copied.stderr
    assert back.read_bytes() == CONTENT
    assert Path(xrootd.facts["store"], "a/b/file").read_bytes() == CONTENT


def test_tokens_open_what_they_name_until_they_expire(xrootd, source):
    url = f"{xrootd.facts['token']['root']}/tokens/file"
    good, expired = xrootd.ask("token"), xrootd.ask("token", "storage.modify:/", -60)
    elsewhere = xrootd.ask("token", "storage.modify:/elsewhere")
    assert client(xrootd, "xrdcp", source, url).returncode != 0
    assert client(xrootd, "xrdcp", source, url, BEARER_TOKEN=expired).returncode != 0
    assert client(xrootd, "xrdcp", source, url, BEARER_TOKEN=elsewhere).returncode != 0
    assert client(xrootd, "xrdcp", source, url, BEARER_TOKEN=good).returncode == 0
    xrootd.ask("revoke")
    assert client(xrootd, "xrdcp", "-f", source, url, BEARER_TOKEN=good).returncode != 0
    assert (
        client(xrootd, "xrdcp", "-f", source, url, BEARER_TOKEN=xrootd.ask("token")).returncode == 0
    )


def test_a_full_disk_says_so(xrootd, tmp_path):
    if "full" not in xrootd.facts:
        pytest.skip("only root may mount a small file system")
    large = tmp_path / "large"
    large.write_bytes(bytes(2 << 20))
    copied = client(xrootd, "xrdcp", large, f"{xrootd.facts['root']}/{xrootd.facts['full']}/large")
    assert "no space left on device" in copied.stderr


def test_rucio_keeps_files_by_each_protocol_and_the_traces(rucio, source, tmp_path):
    for rse in ("POSIX", "ROOT", "DAVS"):
        file = source.rename(tmp_path / f"in.{rse}")
        rucio.ask("as", "panda", "rucio", "upload", "--rse", rse, "--scope", "user.alice", file)
        rucio.ask(
            "as", "pilot", "rucio", "download", "--dir", tmp_path / "got", f"user.alice:in.{rse}"
        )
        assert (tmp_path / "got" / "user.alice" / f"in.{rse}").read_bytes() == CONTENT
        source = file
    lines = Path(rucio.facts["traces"]).read_text(encoding="utf-8").splitlines()
    traces = [json.loads(line) for line in lines if line.startswith("{")]
    done = {(trace["eventType"], trace.get("remoteSite")) for trace in traces}
    assert done >= set(product(("upload", "download"), ("POSIX", "ROOT", "DAVS")))


def test_rucio_refuses_a_rule_without_quota(rucio, source, tmp_path):
    file = source.rename(tmp_path / "in.quota")
    rucio.ask("as", "panda", "rucio", "upload", "--rse", "POSIX", "--scope", "user.bob", file)
    rule = ("rucio", "rule", "add", "--copies", 1, "--rses", "ROOT", "user.bob:in.quota")
    with pytest.raises(RuntimeError, match="not enough quota"):
        rucio.ask("as", "bob", *rule)
    rucio.ask("as", "alice", *rule)


def s3(url: str, account: dict[str, str], data: bytes | None = None) -> int:
    """The status of a GET, or of a PUT of `data`."""
    verb, date = ("GET" if data is None else "PUT"), formatdate(usegmt=True)
    kind = "" if data is None else "application/octet-stream"
    text = f"{verb}\n\n{kind}\n{date}\n{urlsplit(url).path}".encode()
    signature = base64.b64encode(hmac.digest(account["secret_key"].encode(), text, hashlib.sha1))
    headers = {"Date": date, "Authorization": f"AWS {account['access_key']}:{signature.decode()}"}
    request = urllib.request.Request(url, data, headers, method=verb)  # noqa: S310 -- ours
    if kind:
        request.add_header("Content-Type", kind)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_bucket_belongs_to_its_user_and_has_a_quota(ceph):
    facts = ceph.facts
    file = f"{facts['url']}/{facts['bucket']}/file"
    assert s3(file, facts, CONTENT) == 200
    assert s3(file, facts) == 200
    assert s3(file, facts["other"]) == 403
    assert s3(f"{facts['url']}/{facts['small']}/large", facts, bytes(2 << 20)) == 403


def test_apptainer_runs_an_image_as_its_caller(apptainer, busybox):
    argv = [apptainer, "exec", "--containall", "--pid", busybox, "sh", "-c", "id -u; exit 42"]
    callers = {os.getuid(): []}
    if os.getuid() == 0:
        callers[65534] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for user, first in callers.items():
        home = {"HOME": "/", "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [*first, *argv], cwd="/", env=home, check=False, capture_output=True, timeout=60
        )
        assert (done.stdout, done.returncode) == (b"%d\n" % user, 42), done.stderr


def test_an_image_is_the_same_each_time(need, busybox, tmp_path):
    again = busybox_image(need, tmp_path)
    assert again.read_bytes() == busybox.read_bytes()
