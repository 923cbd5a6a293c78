"""What the dispatcher cannot know yet, because the relay could not tell it: asked by the edge.

An edge that judged workers by what the dispatcher says, right after an outage, would find that
pilots had never registered, and tell it to run jobs again whose reports are on their way.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from harvester_edge.site import Site

ON_ITS_WAY_S = 10.0


def behind(site: Site) -> str:
    """Why the dispatcher's word is not to be trusted yet; empty: it is.

    What has been waiting for longer than the outage that the site tolerates waits in vain.
    """
    path = site.relay_state / "relay.sqlite"
    if site.outage_s is None or not path.exists():
        return ""
    now = time.time()
    try:
        pilots, reports = _untold(path, now, site.outage_s)
    except sqlite3.Error as error:
        return f"what the relay has not told yet cannot be read in {path}: {error}; does the relay start?"
    if pilots or reports:
        return f"the relay has {pilots} pilots and {reports} reports that the dispatcher has not heard of"
    return ""


def _untold(path: Path, now: float, outage_s: float) -> tuple[int, int]:
    """Pilots and reports that wait."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as db:
        (pilots,) = db.execute(
            "select count(*) from pilot where worker_id = 0 and at > ?", (now - outage_s,)
        ).fetchone()
        (reports,) = db.execute(
            "select count(*) from report where at between ? and ?",
            (now - outage_s, now - ON_ITS_WAY_S),
        ).fetchone()
    return int(pilots), int(reports)
