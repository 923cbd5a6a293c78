"""Slots with one pilot for all nodes of an allocation: what that needs, and what does not go with
it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

import plugins
from ailurus.protocol.errors import AilurusError
from harvester_edge.batch import batch_class
from harvester_edge.lint.document import Fault, Tree, nearest
from harvester_edge.lint.options import unlike
from harvester_edge.lint.places import VOLATILE, beneath
from harvester_edge.site import Site


def heads(site: Site, tree: Tree) -> Iterator[Fault]:
    """Faults of such slots, and of what is said for them alone."""
    names = [name for name, slot in site.slots.items() if slot.pilots == "head"]
    for name in names:
        yield from _slot(name, site, tree)
    work = site.paths.work
    if names and any(beneath(work, root) for root in VOLATILE):
        message = (
            f"the nodes of slot {names[0]} share it, and of {work} each machine has its own: no "
            "agent would be let in"
        )
        remedy = "a directory on a file system that all nodes mount"
        yield tree.fault(("paths", "work"), "W012", message, remedy)
    said = tree.own(("pilot", "allocation"))
    if said and not names:
        message = "no slot says `pilots: head`, so nobody reads it"
        yield tree.fault(("pilot", "allocation"), "W003", message, "leave it out")
    yield from _allocation(site, tree)


def _slot(name: str, site: Site, tree: Tree) -> Iterator[Fault]:
    kind, slot = site.backend.kind, site.slots[name]
    at = ("slots", name, "pilots")
    try:
        able = batch_class(kind).heads
    # Said elsewhere.
    except AilurusError:
        return
    if not able:
        message = f"{kind} cannot give one pilot several nodes"
        remedy = "`pilots: per_node`, which has a pilot on each"
        yield tree.fault(at, "E024", message, remedy)
    elif slot.nodes == 1:
        message = "there are no other nodes: an allocation has one"
        yield tree.fault(at, "W003", message, "`nodes: 4`, say, or leave `pilots` out")


def _allocation(site: Site, tree: Tree) -> Iterator[Fault]:
    """Its plugin, and the options of that. A pilot in a venv of its own may have others than there
    are here."""
    said, at = site.pilot.allocation, ("pilot", "allocation")
    rule = "W009" if site.pilot.program else "E020"
    kind, known = said.kind, plugins.names("node")
    if kind and kind not in known:
        message = f"there is no plugin {kind!r} for allocations"
        yield tree.fault((*at, "kind"), rule, message, nearest(kind, known))
        return
    if not kind:
        if said.options:
            message = "whose options these are is not said"
            remedy = f"`kind: {site.backend.kind}`, say"
            yield tree.fault((*at, "options"), "E024", message, remedy)
        return
    options = plugins.load("node", kind).Options
    fields = [one.name for one in msgspec.structs.fields(options)]
    for key, value in said.options.items():
        place = (*at, "options", key)
        if key not in fields:
            yield tree.fault(place, "E020", f"{kind} has no such option", nearest(key, fields))
        elif wrong := unlike(value, key, options):
            yield tree.fault(place, "E020", *wrong)
