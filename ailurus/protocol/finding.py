"""The answer to one question about a site, as `harvester-edge doctor` shows it and `pilot --probe`
writes it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Verdict = Literal["good", "warning", "bad"]


class Finding(Struct, frozen=True, kw_only=True):
    """What was asked, what came back, and what would help."""

    about: str
    verdict: Verdict
    said: str
    remedy: str = ""


PROBE = "probe"
"""What the last finding of a probe is about: nothing comes after it."""
