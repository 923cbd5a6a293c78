"""Reading a site file: everything that is wrong with it at once, each with file, line and remedy.

    site.yaml:14: limits.totl: no such key; did you mean `total`?  [E012]

`sense.RULES` lists the rules; `harvester-edge lint --rules` prints them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ailurus.protocol.errors import AilurusError
from harvester_edge.sense import sense
from harvester_edge.site import Site, json_schema
from harvester_edge.tree import At, Fault, Tree, nearest, read


class SiteError(AilurusError):
    """A site file that cannot be used."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def load(path: Path) -> Site:
    """The site of a file. Raises SiteError with all that is wrong."""
    tree = read(path)
    if not tree.faults:
        try:
            site = msgspec.convert(tree.data, Site)
        except msgspec.ValidationError:
            pass
        else:
            if not (wrong := [one for one in sense(site, tree) if one.rule.startswith("E")]):
                return site
            raise SiteError(wrong)
    raise SiteError(_errors(tree))


def faults(path: Path) -> list[Fault]:
    """All that is wrong with a file, warnings (rule W…) last."""
    tree = read(path)
    found = _errors(tree)
    confirm = tree.data.get("confirm") if isinstance(tree.data, dict) else None
    for key in confirm if isinstance(confirm, list) else ():
        at = tuple(str(key).split("."))
        if at in tree.marks:
            found.append(tree.fault(at, "W001", "somebody at the site must confirm this value"))
        else:
            found.append(tree.fault(("confirm",), "E011", f"there is no {key} to confirm"))
    return sorted(found, key=lambda fault: (fault.rule[0], fault.file, fault.line))


def _errors(tree: Tree) -> list[Fault]:
    """The faults of the text, else of the schema, else of the sense."""
    if tree.faults:
        return tree.faults
    found = [
        fault for error in _validator().iter_errors(tree.data) for fault in _explained(error, tree)
    ]
    if found:
        return found
    return list(sense(msgspec.convert(tree.data, Site), tree))


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json_schema())


def _explained(error: Any, tree: Tree) -> Iterator[Fault]:
    path: At = tuple(error.absolute_path)
    schema, value = error.schema, error.instance
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", ()))
        for key in value:
            if key not in known:
                yield tree.fault((*path, key), "E012", "no such key", nearest(key, known))
    elif error.validator == "required":
        # `required` comes once for each missing key, and names it only in its text.
        missing = error.message.split("'")[1]
        yield tree.fault((*path, missing), "E013", "this key is missing")
    elif error.validator in ("const", "enum"):
        known = [str(one) for one in schema.get("enum", [schema.get("const")])]
        remedy = nearest(str(value), known)
        yield tree.fault(path, "E011", f"{_shown(value)} is not allowed", remedy)
    elif error.validator == "anyOf" and isinstance(value, dict):
        for one in error.context or ():  # a part that may be left out: what is wrong inside it
            if one.schema.get("type") != "null":
                yield from _explained(one, tree)
    else:
        told = [
            one.get("description", one.get("type", "")) for one in schema.get("anyOf", [schema])
        ]
        wanted = " or ".join(one for one in told if one and one != "null")
        if error.validator in (
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "maxItems",
            "maxProperties",
            "minProperties",
        ):
            wanted = f"{wanted} with {error.validator} {error.validator_value}"
        text = schema.get("type") == "string"
        hint = "quote it" if text and isinstance(value, bool | int | float) else ""
        yield tree.fault(
            path, "E010", f"{_shown(value)} is not {wanted or 'what belongs here'}", hint
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "…"
