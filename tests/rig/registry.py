"""A registry of images on loopback: Debian's docker-registry, with TLS and an authority of its
own."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
import trustme

from tests.rig.ports import free_port
from tests.rig.waiting import until

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Registry:
    """A registry that runs. `host` names it in references, `ca` is the file of its authority."""

    def __init__(self, directory: Path, port: int, authority: trustme.CA) -> None:
        self.host, self.ca = f"127.0.0.1:{port}", directory / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)

    def push(self, name: str, tag: str, root: Path) -> str:
        """Keep the file system at `root` as an image of one layer; its digest."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            tar.add(root, arcname=".")
        layer = file.getvalue()
        plain = hashlib.sha256(gzip.decompress(layer)).hexdigest()
        config = {
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
        }  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self._blob(name, json.dumps(config).encode(), _CONFIG),
            "layers": [self._blob(name, layer, _LAYER)],
        }  # fmt: skip
        text = json.dumps(manifest).encode()
        self._ask("PUT", f"/v2/{name}/manifests/{tag}", text, MANIFEST)
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    def digest(self, name: str, tag: str) -> str:
        """Of the manifest that a tag means."""
        return self._ask("HEAD", f"/v2/{name}/manifests/{tag}")["Docker-Content-Digest"]

    def _blob(self, name: str, data: bytes, kind: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        place = self._ask("POST", f"/v2/{name}/blobs/uploads/", b"")["Location"]
        self._ask("PUT", f"{place}&digest={digest}", data)
        return {"mediaType": kind, "size": len(data), "digest": digest}

    def _ask(
        self, method: str, path: str, data: bytes | None = None, kind: str = ""
    ) -> Mapping[str, str]:
        """The headers of an answer. Raises OSError where there is none, or a bad one."""
        url = path if path.startswith("https:") else f"https://{self.host}{path}"
        headers = {"Accept": MANIFEST, "Content-Type": kind or "application/octet-stream"}
        answer = requests.request(
            method, url, data=data, headers=headers, verify=str(self.ca), timeout=20
        )
        answer.raise_for_status()
        return answer.headers


@contextmanager
def running(program: str, directory: Path) -> Iterator[Registry]:
    """Start a registry that keeps its images in `directory`; it is stopped at the end."""
    port, authority = free_port(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "kept")}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "tls": {name: str(directory / "server.pem") for name in ("certificate", "key")},
        },
    }
    (directory / "config.yml").write_text(json.dumps(settings), encoding="utf-8")
    made = Registry(directory, port, authority)

    def answers() -> bool:
        with suppress(OSError):
            made._ask("GET", "/v2/")
            return True
        return False

    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", directory / "config.yml"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        until(answers, 20, f"a registry (see {directory}/log)")
        yield made
    finally:
        process.kill()
        process.wait()
