"""What the demo asks of Rucio, as a user of it: run by a Python that has Rucio's client
(`scripts/fixtures/rucio as DIR alice python catalogue.py …`).

    put DATASET RSE FILE        upload a file into a new data set, and close that
    get DIRECTORY DID…          download files, each under its name in Rucio
    tell SECONDS DATASET…       all about data sets, as JSON; if need be once they are closed
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from rucio.client import Client
from rucio.client.downloadclient import DownloadClient
from rucio.client.uploadclient import UploadClient

LOOK_S = 0.5


def put(dataset: str, rse: str, path: str) -> None:
    scope, _, name = dataset.partition(":")
    item = {"path": path, "rse": rse, "did_scope": scope}
    UploadClient().upload([{**item, "dataset_scope": scope, "dataset_name": name}])
    Client().close(scope, name)


def get(directory: str, dids: Sequence[str]) -> None:
    """Checksums are compared by Rucio's client."""
    items = [{"did": did, "base_dir": directory, "no_subdir": True} for did in dids]
    DownloadClient().download_dids(items)


def tell(patience_s: float, datasets: Sequence[str]) -> dict[str, Any]:
    client, deadline = Client(), time.monotonic() + patience_s
    dids = [dict(zip(("scope", "name"), one.split(":"), strict=True)) for one in datasets]
    while any(client.get_did(**did)["open"] for did in dids) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return {
        "datasets": [about(client, did) for did in dids],
        "rules": [
            {
                "did": f"{rule['scope']}:{rule['name']}",
                "account": rule["account"],
                "where": rule["rse_expression"],
                "state": rule["state"],
                "until": str(rule["expires_at"] or ""),
            }
            for scope in sorted({did["scope"] for did in dids})
            for rule in client.list_replication_rules(filters={"scope": scope})
        ],
    }


def about(client: Client, did: dict[str, str]) -> dict[str, Any]:
    files = [
        {
            "did": f"{file['scope']}:{file['name']}",
            "size": file["bytes"],
            "adler32": file["adler32"],
            "replicas": {url: at["rse"] for url, at in file["pfns"].items()},
        }
        for file in client.list_replicas([did])
    ]
    return {
        "did": f"{did['scope']}:{did['name']}",
        "open": client.get_did(**did)["open"],
        "files": files,
    }


def main() -> None:
    match sys.argv[1:]:
        case ["put", dataset, rse, path]:
            put(dataset, rse, path)
        case ["get", directory, *dids]:
            get(directory, dids)
        case ["tell", seconds, *datasets]:
            print(json.dumps(tell(float(seconds), datasets)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
