"""Reading a site file: everything that is wrong with it at once, each with file, line and remedy.

    site.yaml:14: limits.totl: no such key; did you mean `total`?  [E012]

`sense.RULES` lists the rules; `harvester-edge lint --rules` prints them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.shown import shown
from harvester_edge.lint.document import At, Fault, Tree, dotted, nearest, read
from harvester_edge.lint.rules import sense
from harvester_edge.site import Site, json_schema


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
            message = "somebody at the site must confirm this value"
            found.append(tree.fault(at, "W001", message, "then take it out of `confirm`"))
        else:
            near = difflib.get_close_matches(str(key), (dotted(one) for one in tree.marks), 1)
            remedy = f"did you mean `{near[0]}`?" if near else "leave it out"
            message = f"there is no {key} to confirm"
            found.append(tree.fault(("confirm",), "E011", message, remedy))
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
    try:
        site = msgspec.convert(tree.data, Site)
    # What the schema lets through and the type does not.
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        at = tuple(where.rstrip("`").split("[")[0].split(".")) if where else ()
        return [tree.fault(at, "E010", message, "see `site_configs/site.schema.json`")]
    return list(sense(site, tree))


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # To JSON Schema 4.0 is an integer; to the type that the edge reads it is none.
    types = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return extend(Draft202012Validator, type_checker=types)(_schema())  # type: ignore[no-untyped-call]


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


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
        remedy = _example(schema["properties"][missing], missing)
        yield tree.fault((*path, missing), "E013", "this key is missing", remedy)
    elif error.validator in ("const", "enum"):
        known = [str(one) for one in schema.get("enum", [schema.get("const")])]
        remedy = nearest(str(value), known)
        yield tree.fault(path, "E011", f"{_shown(value)} is not allowed", remedy)
    elif error.validator == "anyOf" and isinstance(value, dict) and _is_part(schema):
        # A part that may be left out: what is wrong inside it.
        for one in error.context or ():
            if one.schema.get("type") != "null":
                yield from _explained(one, tree)
    else:
        yield _misfit(error, path, tree)


def _misfit(error: Any, path: At, tree: Tree) -> Fault:
    """A value of the wrong type, form or size."""
    schema, value = error.schema, error.instance
    remedy = _example(schema, path[-1] if path else 0)
    # The name itself is wrong.
    if "propertyNames" in error.absolute_schema_path:
        path, remedy = (*path, value), _example(schema, 0)
    # Of a credential it may be the secret itself.
    what = "this" if path[:1] == ("credentials",) else _shown(value)
    message = f"{what} is not {_wanted(schema)}"
    if error.validator in BOUNDS:
        wrong, right = BOUNDS[error.validator]
        message, remedy = f"{_shown(value)} is {wrong}", f"{right} {error.validator_value}"
    elif schema.get("type") == "string" and isinstance(value, bool | int | float):
        remedy = "quote it"
    return tree.fault(path, "E010", message, remedy)


def _wanted(schema: Any) -> str:
    forms = []
    for one in map(_resolved, _kinds(schema)):
        words = " or ".join(map(str, one.get("enum", ())))
        forms.append(one.get("description") or words or TYPES[one["type"]])
    return " or ".join(dict.fromkeys(forms))


TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map of keys",
}
# By the schema's word: what a value is, and what it should be.
BOUNDS = {
    "minimum": ("too small", "at least"),
    "exclusiveMinimum": ("too small", "more than"),
    "maximum": ("too large", "at most"),
    "minLength": ("too short", "characters: at least"),
    "maxLength": ("too long", "characters: at most"),
    "maxItems": ("too much", "entries: at most"),
    "minProperties": ("too little", "entries: at least"),
    "maxProperties": ("too much", "entries: at most"),
}


def _kinds(schema: Any) -> list[Any]:
    """What a value may be, one of which is what people write; that it may be left out is not
    said."""
    return [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]


def _resolved(schema: Any) -> Any:
    if "$ref" not in schema:
        return schema
    return {**_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]], "description": ""}


def _is_part(schema: Any) -> bool:
    return any(_resolved(one).get("type") == "object" for one in _kinds(schema))


def _example(schema: Any, key: str | int) -> str:
    """What would be right there."""
    one = _resolved(_kinds(schema)[0])
    values = (
        one.get("examples") or one.get("enum") or [one.get("const", PLAIN.get(one.get("type")))]
    )
    value = values[0]
    if one.get("type") == "object":
        value = "{" + ", ".join(f"{name}: …" for name in one.get("required", ["…"])) + "}"
    return f"`{key}: {value}`, say" if isinstance(key, str) else f"`{value}`, say"


PLAIN = {"string": "…", "integer": 1, "number": 1, "boolean": "true", "array": "[…]"}


def _shown(value: Any) -> str:
    """A value as it stands in the file."""
    if value is None:
        return "nothing"
    text = shown(repr(value)) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) < 60 else text[:57] + "…"
