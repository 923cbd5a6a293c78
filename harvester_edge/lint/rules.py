"""What is wrong with a site that its schema cannot say: limits, times, paths and words that
contradict each other. A rule E… is a fault; W… is a warning, and the site can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

import plugins
from ailurus import token_discovery
from ailurus.apart import SYSTEM, Location, look
from ailurus.paths import directory_url, discovers, expanded
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from harvester_edge.batch import batch_class
from harvester_edge.fields import Options
from harvester_edge.lint.addresses import addresses, files, host, loopback
from harvester_edge.lint.document import At, Fault, Tree, dotted, nearest
from harvester_edge.lint.heads import heads
from harvester_edge.lint.limits import limits, times
from harvester_edge.lint.options import unlike
from harvester_edge.lint.places import VOLATILE, beneath, plain
from harvester_edge.lint.storage import (
    credential_files,
    plugin_options,
    rucio_settings,
    storage_options,
    storage_secrets,
    storage_urls,
)
from harvester_edge.owned import token_remedy
from harvester_edge.site import Site

RULES = {
    "E001": "the file is not YAML",
    "E002": "a key stands twice",
    "E003": "an alias or a tag",
    "E004": "the file cannot be read",
    "E005": "`extends` names no profile, or the file itself",
    "E010": "a value of the wrong type or form",
    "E011": "a value that is not one of those allowed",
    "E012": "no such key",
    "E013": "a key is missing",
    "E020": "a plugin that does not exist, or an option that it does not have",
    "E021": "a path that is not absolute, or a variable in it that is not set",
    "E022": "limits that contradict each other or leave no room: no worker could ever start",
    "E023": "times that contradict each other, or are none",
    "E024": "keys that exclude each other, or one that needs another",
    "E025": "a token would travel in the clear",
    "E026": "jobs may not write where their outputs go unless they say otherwise",
    "E027": "jobs could read or write what is the edge's",
    "E028": "a secret in the site file",
    "W001": "a value that somebody at the site must confirm",
    "W002": "the batch system is asked too often, or not patiently",
    "W003": "a limit that is never reached",
    "W004": "nobody to turn to",
    "W005": "the edge's book would not survive a reboot",
    "W006": "two slots of a queue that are the same",
    "W007": "nodes cannot reach the dispatcher at this address",
    "W008": "somebody gets a token that can do more than they need",
    "W009": "a plugin that is not here, but perhaps where the pilot is installed",
    "W010": "a file that is not here, is empty, or others can use",
    "W011": "workers of a slot start only beside those of another",
    "W012": "nodes do not see what they must share with the edge",
}

# Controllers of shared batch systems are not asked more often than this.
KIND_POLL_S = 30.0


def sense(site: Site, tree: Tree) -> Iterator[Fault]:
    """All faults and warnings of a site that its schema accepts."""
    for check in CHECKS:
        yield from check(site, tree)


def _paths(site: Site, tree: Tree) -> Iterator[Fault]:
    secrets = {at for at, _ in credential_files(site)}
    for at, path in _all_paths(site):
        if at in secrets and not path.startswith(("/", "~", "$")):
            # Perhaps the secret itself, which nobody wants in a ticket.
            remedy = "name the file, from / on"
            remedy += f", or `{token_discovery.DISCOVERED}`" if at[-1] == "token_file" else ""
            yield tree.fault(at, "E021", "this is no absolute path", remedy)
        elif "$" in expanded(path):
            yield tree.fault(at, "E021", f"a variable of {path} is not set", "write it out")
        elif not expanded(path).startswith("/"):
            yield tree.fault(at, "E021", f"{expanded(path)} is not absolute", "begin it with /")


def _all_paths(site: Site) -> Iterator[tuple[At, str]]:
    yield ("paths", "work"), site.paths.work
    yield ("paths", "state"), site.paths.state
    yield ("dispatcher", "token_file"), site.dispatcher.token_file
    maybe: tuple[tuple[At, str | None], ...] = (
        (("paths", "shared"), site.paths.shared),
        (("dispatcher", "ca"), site.dispatcher.ca),
        (
            ("dispatcher", "panda", "pilot_token_file"),
            site.dispatcher.panda.pilot_token_file if site.dispatcher.panda else None,
        ),
        (("pilot", "file"), site.pilot.file),
        (("pilot", "program"), site.pilot.program),
        (("pilot", "gpus", "mps"), site.pilot.gpus.mps),
        (("relay", "token_file"), site.relay.token_file if site.relay else None),
    )
    yield from ((at, path) for at, path in maybe if path is not None)
    yield from credential_files(site)
    yield from rucio_settings(site)
    yield from ((("storage", "roots", n), root) for n, root in enumerate(site.storage.roots))
    yield from ((("software", n), root) for n, root in enumerate(site.software))
    yield from ((("container", "show", n), path) for n, path in enumerate(site.container.show))
    yield from ((("container", "images", n), path) for n, path in enumerate(site.container.images))


def _pilot(site: Site, tree: Tree) -> Iterator[Fault]:
    if site.pilot.file and site.pilot.program:
        at = ("pilot", "program")
        yield tree.fault(at, "E024", "`file` and `program`: which one?", "keep one")
    if site.pilot.sha256 and not site.pilot.file:
        yield tree.fault(
            ("pilot", "sha256"), "E024", "there is no `file` that it is the sum of", "`file: PATH`"
        )


def _network(site: Site, tree: Tree) -> Iterator[Fault]:
    if site.network == "direct":
        return
    if site.relay is None:
        message = f"`network: {site.network}` needs a part `relay`"
        yield tree.fault(("network",), "E024", message, "relay: {token_file: …, url: https://…}")
    elif site.network == "relay" and not (site.relay.url or "").startswith("https://"):
        message = "nodes must be told where the relay is, and they know it by its certificate"
        yield tree.fault(("relay", "url"), "E024", message, "https://HOST:8443")
    elif (
        site.network == "relay" and site.backend.kind != "local" and loopback(site.relay.url or "")
    ):
        message = f"{host(site.relay.url or '')} on a node is the node itself"
        yield tree.fault(("relay", "url"), "W007", message, "what nodes call this machine")
    if site.relay is not None and site.relay.token_file == site.dispatcher.token_file:
        message = (
            "it is the edge's own, and the relay needs one with the scope `ailurus.relay` only"
        )
        remedy = token_remedy("relay", site.site)
        yield tree.fault(("relay", "token_file"), "W008", message, remedy)
    if site.network == "spool" and site.backend.kind != "local" and site.paths.shared is None:
        message = f"the spool would be in {site.paths.state}, which is to be on a local disk"
        yield tree.fault(("paths", "shared"), "W012", message, SHARED)
    if site.network == "spool" and site.container.bare:
        message = "a payload outside a container could read the spool, and the tokens in it"
        remedy = "`bare: false`, or `network: relay`"
        yield tree.fault(("container", "bare"), "E024", message, remedy)


def _panda(site: Site, tree: Tree) -> Iterator[Fault]:
    part = site.dispatcher.panda
    if part is None:
        return
    at = ("dispatcher", "panda")
    if site.network != "direct":
        message = "a relay speaks to an Ailurus dispatcher only"
        yield tree.fault(("network",), "E024", message, "`network: direct`")
    if part.dialect == "legacy" and part.run_mode == "self":
        message = "PanDA's old interface tells nobody how many jobs are activated"
        yield tree.fault((*at, "run_mode"), "E024", message, "run_mode: slave")
    if part.pilot_token_file == site.dispatcher.token_file:
        message = "every payload's neighbour on a node could act as this edge"
        yield tree.fault((*at, "pilot_token_file"), "W008", message, "a token of pilots only")
    if site.policy.exclude_nodes:
        message = "a PanDA server tells of no bad nodes"
        yield tree.fault(("policy", "exclude_nodes"), "W003", message, "leave it out")


def _asking(site: Site, tree: Tree) -> Iterator[Fault]:
    """How the batch system is asked, unless it is this machine."""
    limits = site.backend.limits
    if site.backend.kind == "local" or limits.poll is None:
        return
    poll = duration_s(limits.poll)
    if poll < KIND_POLL_S:
        message = f"a listing each {poll:.0f} s is more than a shared batch system likes"
        yield tree.fault(("backend", "limits", "poll"), "W002", message, "120s")
    if limits.grace is not None and duration_s(limits.grace) < poll:
        message = f"less than one poll, {poll:.0f} s: one bad listing would lose workers"
        remedy = f"{2 * poll:.0f}s"
        yield tree.fault(("backend", "limits", "grace"), "W002", message, remedy)


def _apart(site: Site, tree: Tree) -> Iterator[Fault]:
    """What jobs are shown, and what is the edge's, its pilots' or a credential: nothing of one lies
    beneath the other. Links are followed as this machine has them."""
    own = [(at, path, look(plain(path))) for at, path in _all_paths(site) if at in OWN]
    own += [(at, path, look(plain(path))) for at, path in credential_files(site)]
    shown = [(at, path) for at, path in _all_paths(site) if at[:-1] in SHOWN or at == MPS]
    roots = [(at, look(plain(path))) for at, path in shown]
    yield from _discovered_apart(site, tree, roots)
    system, work = [look(path) for path in SYSTEM], look(plain(site.paths.work))
    for at, path, place in own:
        for root_at, root in roots:
            if place.overlaps(root):
                message = f"jobs read what is there, and {dotted(at)}, {path}, is beneath it"
                if not place.beneath(root):
                    message = f"it is beneath {dotted(at)}, {path}"
                yield tree.fault(root_at, "E027", message, "a directory of its own")
        if any(place.beneath(one) for one in system):
            message = f"every job sees the node's {path}"
            yield tree.fault(at, "E027", message, "a directory outside /usr and its like")
        if at not in WORK and place.beneath(work):
            message = f"{dotted(at)}, {path}, is beneath it: pilots and payloads write there"
            yield tree.fault(("paths", "work"), "E027", message, "a directory of its own")


def _discovered_apart(
    site: Site, tree: Tree, roots: Sequence[tuple[At, Location]]
) -> Iterator[Fault]:
    """Whether jobs are shown the last place where a token is looked for, which is the same on each
    node but for the user's number."""
    sought = [(*at, "token_file") for at, part in plugin_options(site) if discovers(part)]
    place = look(token_discovery.places({})[-1])
    for at in sought[:1]:
        for root_at, root in roots:
            if place.overlaps(root):
                message = f"jobs read what is there, and {dotted(at)} may be {place.name}"
                yield tree.fault(root_at, "E027", message, "a directory of its own")


MPS: At = ("pilot", "gpus", "mps")
SHOWN: tuple[At, ...] = (
    ("storage", "roots"), ("software",), ("container", "show"), ("container", "images"),
)  # fmt: skip
"""Keys that list what jobs read."""
WORK: tuple[At, ...] = (("paths", "work"),)
OWN: tuple[At, ...] = (
    *WORK, ("paths", "state"), ("paths", "shared"), ("dispatcher", "token_file"),
    ("dispatcher", "panda", "pilot_token_file"), ("relay", "token_file"),
)  # fmt: skip
"""Where spools, tokens and scripts of workers lie: no job may read or write there."""


def _people(site: Site, tree: Tree) -> Iterator[Fault]:
    if site.backend.kind != "local" and not site.contacts:
        message = "no contact: whom does an admin of the batch system ask?"
        yield tree.fault(("contacts",), "W004", message, "contacts: [you@example.org]")
    if site.backend.kind != "local" and _beneath_any(site.paths.state, VOLATILE):
        message = f"{site.paths.state} is gone after a reboot, and what it knows with it"
        yield tree.fault(("paths", "state"), "W005", message, "a local disk that stays")


def _shared(site: Site, tree: Tree) -> Iterator[Fault]:
    shared = site.paths.shared
    if site.backend.kind != "local" and shared is not None and _beneath_any(shared, VOLATILE):
        message = f"{shared} on a node is the node's own"
        yield tree.fault(("paths", "shared"), "W012", message, SHARED)


SHARED = "`shared:` a directory on a file system that nodes mount"


def _beneath_any(path: str, roots: Iterable[str]) -> bool:
    return any(beneath(path, root) for root in roots)


def _twins(site: Site, tree: Tree) -> Iterator[Fault]:
    seen: dict[Any, str] = {}
    for name, slot in site.slots.items():
        what = (slot.queue, slot.room(), tuple(sorted(map(str, slot.extra.items()))))
        if what in seen:
            message = f"the same as slot {seen[what]}: only that one is ever used"
            yield tree.fault(("slots", name), "W006", message, "remove one")
        seen.setdefault(what, name)


def _machines(site: Site, tree: Tree) -> Iterator[Fault]:
    for name, slot in site.slots.items():
        if 0 < slot.gpus < 1 and (site.pilot.gpus.share < 2 or slot.pilots == "head"):
            message = "a part of a GPU is for jobs that share it, of a pilot with one node"
            remedy = "pilot: {gpus: {share: 4}}, without `pilots: head`"
            yield tree.fault(("slots", name, "gpus"), "E024", message, remedy)
        if slot.machine is None:
            continue
        at: At = ("slots", name, "machine")
        if slot.gpus and slot.machine.gpu is None:
            message = (
                "it says nothing of the slot's GPUs: jobs that ask for a kind would never come"
            )
            yield tree.fault(at, "E024", message, "gpu: {model: …, memory: …, cuda: …}")
        elif slot.machine.gpu is not None and not slot.gpus:
            message = "it says what the slot's GPUs are, and the slot has none"
            yield tree.fault((*at, "gpu"), "E024", message, "gpus: 4, or leave it out")


def _backend(site: Site, tree: Tree) -> Iterator[Fault]:
    try:
        plugin = batch_class(site.backend.kind)
    except AilurusError as error:
        yield tree.fault(("backend", "kind"), "E020", error.message, error.remedy)
        return
    for name, slot in site.slots.items():
        if slot.nodes > plugin.most_nodes:
            message = f"an allocation of {site.backend.kind} has {plugin.most_nodes} at most"
            remedy = f"`nodes: {plugin.most_nodes}`"
            yield tree.fault(("slots", name, "nodes"), "E022", message, remedy)
    options = plugin.Options
    known = [one.name for one in msgspec.structs.fields(options)]
    places: list[tuple[At, Options]] = [(("backend", "options"), site.backend.options)]
    places += [(("slots", name, "extra"), slot.extra) for name, slot in site.slots.items()]
    for key, value, at in ((key, given[key], (*at, key)) for at, given in places for key in given):
        if key not in known:
            message = f"{site.backend.kind} has no such option"
            yield tree.fault(at, "E020", message, nearest(key, known))
        elif wrong := unlike(value, key, options):
            yield tree.fault(at, "E020", *wrong)


def _payloads(site: Site, tree: Tree) -> Iterator[Fault]:
    """What the pilot needs a plugin for. One in a venv of its own may have others than there are
    here."""
    rule = "W009" if site.pilot.program else "E020"
    containers, transfers = plugins.names("container"), plugins.names("data")
    default, output = site.container.default, site.storage.default_output
    if default not in containers:
        at, message = ("container", "default"), f"there is no container plugin {default!r}"
        yield tree.fault(at, rule, message, nearest(default, containers))
    elif default == "bare" and not site.container.bare:
        message = "no pilot would start: `bare: false` forbids payloads outside a container"
        remedy = "`default: bubblewrap`, or `bare: true`"
        yield tree.fault(("container", "default"), "E024", message, remedy)
    scheme = directory_url(output).partition("://")[0]
    movers = plugins.names("mover")
    for served, name in site.storage.plugins.items():
        if name not in {*transfers, *movers}:
            message = f"there is no data plugin {name!r}"
            near = nearest(name, [*transfers, *movers])
            yield tree.fault(("storage", "plugins", served), rule, message, near)
    usual, known = plugins.MOVED_BY.get(scheme, scheme), {*transfers, *movers}
    if output and scheme not in site.storage.plugins and usual not in known:
        at, message = ("storage", "default_output"), f"there is no data plugin for {scheme}://"
        schemes = sorted({*transfers, *plugins.MOVED_BY, "s3"})
        yield tree.fault(at, rule, message, f"known: {', '.join(schemes)}")


CHECKS: tuple[Callable[[Site, Tree], Iterator[Fault]], ...] = (
    _backend, _paths, _pilot, _network, _panda, limits, times, heads, _asking, addresses, files, storage_urls,
    storage_options, storage_secrets,
    _apart, _machines, _payloads, _people, _shared, _twins,
)  # fmt: skip
