"""Failures by kind: those at one site whose diagnoses differ in numbers and paths alone are alike.

Each commit keeps how many there are of a kind, so that a reader counts nothing. A payload has a say
in its diagnosis, so an owner has at most `KINDS` kinds of a code: failures of further ones are
counted together.
"""

from __future__ import annotations

import re

from dispatcher.ports import Tx
from dispatcher.rules import records

KINDS = 400
# Characters of what is compared.
LONGEST = 160
# Characters of an example.
SHOWN = 300
_PATH = re.compile(r"/[^\s:,]+")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+")


def alike(diagnosis: str) -> str:
    """A diagnosis without what differs between failures of one kind."""
    plain = _PATH.sub("/…", diagnosis[: 4 * LONGEST].replace("\0", "\ufffd"))
    return _NUMBER.sub("#", plain).strip()[:LONGEST]


def note(
    tx: Tx, *, owner: str, code: int, diagnosis: str, worker_id: int | None, now: float
) -> int:
    """Count a failure; returns the number of its kind. `worker_id`: who had the job."""
    example = diagnosis[:SHOWN].replace("\0", "\ufffd")
    row = tx.one("worker.site", worker_id=worker_id) if worker_id is not None else None
    site: str = records.value(row, "")
    text = alike(example) or "no diagnosis"
    text = f"{text}\n{site}" if site else text
    row = tx.one("failure.find", owner=owner, code=code, text=text)
    if row is None:
        if records.value(tx.one("failure.kinds", owner=owner, code=code), 0) >= KINDS:
            text = site = ""
        kind = {"owner": owner, "code": code, "text": text, "site": site}
        row = tx.one("failure.add", **kind, example=example, now=now)
    number = records.value(row, 0)
    tx.failed(number, example, now)
    return number
