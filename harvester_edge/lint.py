"""Reading a site file: everything that is wrong with it at once, each with file, line and remedy.

    site.yaml:14: limits.totl: no such key; did you mean `total`?  [E012]

E001 not YAML · E002 key twice · E003 alias or tag · E004 unreadable file · E005 `extends`
E010 wrong type or form · E011 wrong value · E012 no such key · E013 key missing
E020 unknown batch system or option · E021 path · E022 limits contradict each other · E023 times do · E024 keys do
W001 a value to confirm
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from harvester_edge.site import Options, Site, Slot, expanded, json_schema
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
            if not (wrong := list(_sense(site, tree))):
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
    from jsonschema import Draft202012Validator

    schema = json_schema()
    found = [
        fault
        for error in Draft202012Validator(schema).iter_errors(tree.data)
        for fault in _explained(error, tree)
    ]
    if found:
        return found
    return list(_sense(msgspec.convert(tree.data, Site), tree))


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


def _sense(site: Site, tree: Tree) -> Iterator[Fault]:
    """What a schema cannot say."""
    yield from _backend(site, tree)
    paths: list[tuple[At, str]] = [
        (("paths", "work"), site.paths.work),
        (("paths", "state"), site.paths.state),
        (("dispatcher", "token_file"), site.dispatcher.token_file),
    ]
    paths += [
        (at, path)
        for at, path in (
            (("paths", "shared"), site.paths.shared),
            (("pilot", "file"), site.pilot.file),
            (("pilot", "program"), site.pilot.program),
        )
        if path is not None
    ]
    paths += [(("storage", "roots", n), root) for n, root in enumerate(site.storage.roots)]
    paths += [(("software", n), root) for n, root in enumerate(site.software)]
    for at, path in paths:
        if not expanded(path).startswith("/") or "$" in expanded(path):
            message = (
                f"{expanded(path)} is not absolute"
                if "$" not in path
                else f"a variable of {path} is not set"
            )
            yield tree.fault(at, "E021", message)
    if site.pilot.file and site.pilot.program:
        yield tree.fault(
            ("pilot", "program"), "E024", "`file` and `program`: which one?", "keep one"
        )
    if site.pilot.sha256 and not site.pilot.file:
        yield tree.fault(("pilot", "sha256"), "E024", "there is no `file` that it is the sum of")
    scaling = site.scaling
    if scaling.floor > scaling.max_total:
        message = f"{scaling.floor} is more than max_total, {scaling.max_total}"
        yield tree.fault(("scaling", "floor"), "E022", message)
    if scaling.max_total and not scaling.max_queued:
        yield tree.fault(("scaling", "max_queued"), "E022", "with 0 no worker can ever start")
    if scaling.max_total and not scaling.per_cycle:
        yield tree.fault(("scaling", "per_cycle"), "E022", "with 0 no worker can ever start")
    for name, slot in site.slots.items():
        yield from _slot(name, slot, site, tree)


def _slot(name: str, slot: Slot, site: Site, tree: Tree) -> Iterator[Fault]:
    walltime, idle = slot.walltime_s, duration_s(site.scaling.idle_exit)
    if walltime < 10:
        yield tree.fault(
            ("slots", name, "walltime"), "E023", f"{walltime} s leaves no time to work", "2h"
        )
    elif idle >= walltime:
        message = (
            f"a worker of slot {name} ends after {walltime} s: it is never idle for {idle:.0f} s"
        )
        yield tree.fault(("scaling", "idle_exit"), "E023", message, "less than the walltime")


def _backend(site: Site, tree: Tree) -> Iterator[Fault]:
    try:
        options = batch_class(site.backend.kind).Options
    except AilurusError as error:
        yield tree.fault(("backend", "kind"), "E020", error.message, error.remedy)
        return
    known = [one.name for one in msgspec.structs.fields(options)]
    places: list[tuple[At, Options]] = [(("backend", "options"), site.backend.options)]
    places += [(("slots", name, "extra"), slot.extra) for name, slot in site.slots.items()]
    for key, value, at in ((key, told[key], (*at, key)) for at, told in places for key in told):
        if key not in known:
            message = f"{site.backend.kind} has no such option"
            yield tree.fault(at, "E020", message, nearest(key, known))
            continue
        try:
            msgspec.convert({key: value}, options)
        except msgspec.ValidationError as error:
            if "missing required" not in str(error):
                yield tree.fault(at, "E020", str(error).split(" - at")[0])


def batch_class(kind: str) -> Any:
    """The plugin of a batch system; the edge knows it by its port only."""
    return import_module("plugins").load("batch", kind)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "…"
