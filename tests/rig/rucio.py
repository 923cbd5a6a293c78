"""A real Rucio beside our real programs: files in it for jobs to read, and what it knows in the
end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.rig.services import Service

# Run by the fixture's own Python, which has Rucio's client.
_UPLOAD = """
import json, sys
from rucio.client import Client
from rucio.client.uploadclient import UploadClient
UploadClient(Client()).upload(json.load(open(sys.argv[1])))
"""
_KNOWN = """
import json, sys
from rucio.client import Client
from rucio.common.exception import DataIdentifierNotFound
client = Client()
scope, _, name = sys.argv[1].partition(":")
try:
    did = client.get_did(scope, name)
except DataIdentifierNotFound:
    print("null")
    raise SystemExit
rules = list(client.list_did_rules(scope, name))
print(json.dumps({
    "type": did["type"], "open": did.get("open"),
    "files": [[f["scope"] + ":" + f["name"], f["bytes"], f["adler32"]]
              for f in client.list_files(scope, name)],
    "parents": [p["scope"] + ":" + p["name"] for p in client.list_parent_dids(scope, name)],
    "rules": [[r["account"], r["rse_expression"], r["state"], r["expires_at"] is not None]
              for r in rules],
    "lifetimes_s": [round((r["expires_at"] - r["created_at"]).total_seconds(), -1)
                    for r in rules if r["expires_at"]],
    "replicas": {r["scope"] + ":" + r["name"]: r["rses"]
                 for r in client.list_replicas([{"scope": scope, "name": name}], all_states=True)},
}))
"""

_EVERYTHING = """
import json, sys
from rucio.client import Client
client = Client()
scope, mark = sys.argv[1:]
found = {}
for name in client.list_dids(scope, {"name": f"*{mark}*"}, did_type="all"):
    did = client.get_did(scope, name)
    found[name] = {
        "type": did["type"], "open": bool(did.get("open")), "bytes": did.get("bytes"), "adler32": did.get("adler32"),
        "parents": [p["name"] for p in client.list_parent_dids(scope, name)],
        "rules": len(list(client.list_did_rules(scope, name))), "rses": [],
    }
files = [{"scope": scope, "name": name} for name, about in found.items() if about["type"] == "FILE"]
for replica in client.list_replicas(files, all_states=True) if files else ():
    found[replica["name"]]["rses"] = [rse for rse, state in replica["states"].items() if state == "AVAILABLE"]
print(json.dumps(found))
"""


def upload(rucio: Service, rse: str, dids: dict[str, bytes], into: Path, dataset: str = "") -> None:
    """Have files in Rucio, each at an RSE; `into`: a directory for them meanwhile."""
    into.mkdir(exist_ok=True)
    orders = []
    for did, content in dids.items():
        scope, _, name = did.partition(":")
        path = into / name
        path.write_bytes(content)
        order = {"path": str(path), "rse": rse, "did_scope": scope, "did_name": name}
        if dataset:
            order["dataset_scope"], _, order["dataset_name"] = dataset.partition(":")
        orders.append(order)
    listed = into / "orders.json"
    listed.write_text(json.dumps(orders), encoding="utf-8")
    rucio.ask("as", "panda", "python", "-c", _UPLOAD, listed)


def known(rucio: Service, did: str) -> dict[str, Any] | None:
    """What the catalogue has of an identifier; None: nothing."""
    found: dict[str, Any] | None = json.loads(
        rucio.ask("as", "panda", "python", "-c", _KNOWN, did).splitlines()[-1]
    )
    return found


def everything(rucio: Service, scope: str, mark: str) -> dict[str, dict[str, Any]]:
    """What the catalogue has in a scope of names with `mark`, by name."""
    found: dict[str, dict[str, Any]] = json.loads(
        rucio.ask("as", "panda", "python", "-c", _EVERYTHING, scope, mark).splitlines()[-1]
    )
    return found


def traces(rucio: Service, name: str) -> list[dict[str, Any]]:
    """Those of a file."""
    path = Path(rucio.facts["traces"])
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [trace for trace in found if trace.get("filename") == name]


def storage(rucio: Service, rse: str) -> dict[str, Any]:
    """A site's `storage` that is an RSE of it."""
    facts = rucio.facts
    xrootd = facts["xrootd"]
    return {
        "rse": rse,
        "roots": [str(rucio.directory / "storage")],
        "rucio": {"config": facts["accounts"]["pilot"]["config"]},
        "xrootd": {"ca_dir": xrootd["ca_dir"]},
        "default_output": f"file://{rucio.directory}/storage/logs",
    }


def administer(rucio: Service, code: str) -> None:
    """Have an administrator do something with `client`."""
    rucio.ask(
        "as", "root", "python", "-c", f"from rucio.client import Client\nclient = Client()\n{code}"
    )


def catalogue(rucio: Service, into: Path, account: str = "panda", url: str = "") -> Path:
    """The file for `dispatcher serve --catalogue`; `url`: where the server is to be reached."""
    config = Path(rucio.facts["accounts"][account]["config"])
    if url:
        text = config.read_text(encoding="utf-8").replace(rucio.facts["url"], url)
        config = into / "rucio.cfg"
        config.touch(0o600)
        config.write_text(text, encoding="utf-8")
    about = {
        "kind": "rucio",
        "options": {"config": str(config), "timeout_s": 10},
        "scopes": {"user.{user}": ["*"]},
    }
    path = into / "catalogue.yaml"
    path.write_text(yaml.safe_dump(about), encoding="utf-8")
    return path
