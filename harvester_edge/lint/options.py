"""What is wrong with the value of a plugin's option."""

from __future__ import annotations

import re
from typing import Any

import msgspec


def unlike(value: Any, key: str, options: Any) -> tuple[str, str] | None:
    """What is wrong with an option's value in words, and what would help."""
    refusal = _refusal(value, key, options)
    if refusal is None:
        return None
    if found := re.match(r"Expected `([\w| ]+)`, got `(\w+)`", refusal):
        remedy = " or ".join(WORDS.get(one, one) for one in found[1].split(" | "))
        return f"this is {WORDS.get(found[2], found[2])}", f"{remedy} belongs here"
    if found := re.match(r"Expected `\w+` (<=|>=|<|>) ([\d.]+)", refusal):
        than = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}[found[1]]
        return f"{value} is out of range", f"{than} {found[2]}"
    if "regex" in refusal:
        many = isinstance(value, list)
        letters = dict.fromkeys("".join(value) if many else value)
        bad = [one for one in letters if _refusal([one] if many else one, key, options)]
        what = " ".join(map(repr, bad))
        return f"{what or 'a text of this form'} may not stand here", "leave it out"
    return refusal, "leave it out: docs/edge.md says what a plugin keeps to itself"


def _refusal(value: Any, key: str, options: Any) -> str | None:
    try:
        msgspec.convert({key: value}, options)
    except msgspec.ValidationError as error:
        refusal = str(error).split(" - at")[0]
        return None if "missing required" in refusal else refusal
    return None


WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "array": "a list",
}
