"""Failures by kind: those whose diagnoses differ in numbers and paths alone are alike.

Each commit keeps how many there are of a kind, so that a reader counts nothing. A payload has a say
in its diagnosis, so an owner has at most `KINDS` kinds of a code: failures of further ones are
counted together.
"""

from __future__ import annotations

import re

from dispatcher.ports import Tx
from dispatcher.rules import records

KINDS = 100
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


def note(tx: Tx, *, owner: str, code: int, diagnosis: str, now: float) -> int:
    """Count a failure; returns the number of its kind."""
    example = diagnosis[:SHOWN].replace("\0", "\ufffd")
    text = alike(example) or "no diagnosis"
    row = tx.one("failure.find", owner=owner, code=code, text=text)
    if row is None:
        if records.value(tx.one("failure.kinds", owner=owner, code=code), 0) >= KINDS:
            text = ""
        row = tx.one("failure.add", owner=owner, code=code, text=text, example=example, now=now)
    kind = records.value(row, 0)
    tx.failed(kind, example, now)
    return kind
