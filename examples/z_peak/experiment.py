"""The demo on a real Rucio, with storage by XRootD and payloads in an image: `--data rucio`.

The recorded data are at one storage (DAVS), as at another laboratory. The site has another (ROOT):
its pilots read the data by davs:// and their own outputs by root://.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from holdings import ask, fetch, show
from jobs import terminal
from runtime import runtime
from services import ROOT, SCRIPTS, bring, fixture
from setting import Setting, disk
from workflow import INPUT, RECORDED, SCOPE, in_rucio

from ailurus.protocol.errors import AilurusError

ELSEWHERE, HERE = "DAVS", "ROOT"
"""Where the recorded data are, and the site's own storage."""
LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""


@contextmanager
def experiment(place: Path) -> Iterator[Setting]:
    """Rucio and its storage, with the recorded data in it. Raises AilurusError."""
    fits(place)
    bring("--rucio")
    bring("--postgres", "--xrootd")
    importable()
    how = runtime()
    terminal.print(how.sentence, highlight=False, soft_wrap=True)
    with fixture(place, "rucio") as said:
        facts = json.loads(Path(said).read_text(encoding="utf-8"))
        ask(place, "panda", "put", INPUT, ELSEWHERE, place / f"storage/data/{RECORDED['name']}")
        yield Setting(
            python=how.python,
            files=in_rucio(),
            site={
                "storage": {**disk(place), **storage(facts)},
                "software": [*how.software, str(SCRIPTS)],
                "container": how.container,
            },
            common=how.job,
            serve=("--catalogue", catalogue_file(place, facts)),
            fetch=partial(fetch, place),
            show=partial(show, place, facts),
        )


def storage(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a site's `storage` that are about Rucio."""
    xrootd = facts["xrootd"]
    return {
        "rse": HERE,
        "protocols": {"read_lan": ["root"], "read_wan": ["davs"], "write_lan": ["root"]},
        "rucio": {"config": facts["accounts"]["pilot"]["config"], "ca": xrootd["ca_file"]},
        "xrootd": {"ca_dir": xrootd["ca_dir"]},
    }


def catalogue_file(place: Path, facts: Mapping[str, Any]) -> Path:
    """What `dispatcher serve --catalogue` reads."""
    about = {
        "kind": "rucio",
        "options": {"config": facts["accounts"]["panda"]["config"], "timeout_s": 10},
        "scopes": {SCOPE: ["*"]},
    }
    path = place / "catalogue.yaml"
    path.write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
    return path


# --- what must be here ----------------------------------------------------------------------------


def fits(place: Path) -> None:
    """Raise AilurusError for a directory in which the services could not run."""
    remedy = "--dir /var/tmp/demo, say"
    if len(os.fsencode(place / "rucio/db/.s.PGSQL.5432")) > LONGEST_SOCKET:
        raise AilurusError(f"{place} is too long for a socket", field="--dir", remedy=remedy)
    if re.search(r"[\s,'\"\\]", str(place)):
        raise AilurusError(
            f"the configurations of Rucio's services cannot name {place}",
            field="--dir",
            remedy=remedy,
        )
    closed = [path for path in (place, *place.parents) if not path.stat().st_mode & 0o001]
    if os.getuid() == 0 and closed:
        raise AilurusError(
            f"PostgreSQL and XRootD run as users of their own, who may not enter {closed[-1]}",
            field="--dir",
            remedy=remedy,
        )


def importable() -> None:
    """Raise AilurusError if the libraries that move data are for another Python: Debian has them
    for its own."""
    modules = {
        sys.executable: "from plugins.data.moving import system_module as m; m('XRootD.client')",
        str(ROOT / ".venv-rucio/bin/python"): "import sys; "
        "sys.path.append('/usr/lib/python3/dist-packages'); import gfal2",
    }
    for python, code in modules.items():
        tried = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, check=False)
        if tried.returncode:
            why = tried.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise AilurusError(
                f"{python} cannot load what moves data: {' '.join(why)}",
                remedy="rm -r .venv .venv-rucio, then AILURUS_PYTHON=/usr/bin/python3 scripts/demo",
            )
