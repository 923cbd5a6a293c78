"""What is wrong with a site that its schema cannot say: limits, times, paths and words that contradict
each other. A rule E… is a fault; W… is a warning, and the site can be used."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s, size_mb
from harvester_edge.site import Options, Site, Slot, expanded, percent
from harvester_edge.tree import At, Fault, Tree, nearest

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
    "E020": "the batch system does not exist or has no such option",
    "E021": "a path that is not absolute, or a variable in it that is not set",
    "E022": "limits that contradict each other, so that no worker could ever start",
    "E023": "times that contradict each other",
    "E024": "keys that exclude each other, or one that needs another",
    "E025": "a token would travel in the clear",
    "E026": "jobs may not write where their outputs go unless they say otherwise",
    "E027": "jobs could read or write what is the edge's",
    "W001": "a value that somebody at the site must confirm",
    "W002": "the batch system is asked too often, or not patiently",
    "W003": "a limit that is never reached",
    "W004": "nobody to turn to",
    "W005": "the edge's book would not survive a reboot",
    "W006": "two slots of a queue that are the same",
    "W007": "nodes cannot reach the dispatcher at this address",
    "W008": "pilots get a token that can do more than they need",
}

KIND_POLL_S = 30.0  # controllers of shared batch systems are not asked more often than this
VOLATILE = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108  looked for, not used


def sense(site: Site, tree: Tree) -> Iterator[Fault]:
    """All faults and warnings of a site that its schema accepts."""
    for check in CHECKS:
        yield from check(site, tree)


def _paths(site: Site, tree: Tree) -> Iterator[Fault]:
    for at, path in _all_paths(site):
        if "$" in expanded(path):
            yield tree.fault(at, "E021", f"a variable of {path} is not set")
        elif not expanded(path).startswith("/"):
            yield tree.fault(at, "E021", f"{expanded(path)} is not absolute")


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
        (("relay", "token_file"), site.relay.token_file if site.relay else None),
    )
    yield from ((at, path) for at, path in maybe if path is not None)
    yield from ((("storage", "roots", n), root) for n, root in enumerate(site.storage.roots))
    yield from ((("software", n), root) for n, root in enumerate(site.software))


def _pilot(site: Site, tree: Tree) -> Iterator[Fault]:
    if site.pilot.file and site.pilot.program:
        at = ("pilot", "program")
        yield tree.fault(at, "E024", "`file` and `program`: which one?", "keep one")
    if site.pilot.sha256 and not site.pilot.file:
        yield tree.fault(("pilot", "sha256"), "E024", "there is no `file` that it is the sum of")


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
        site.network == "relay" and site.backend.kind != "local" and _loopback(site.relay.url or "")
    ):
        message = f"{_host(site.relay.url or '')} on a node is the node itself"
        yield tree.fault(("relay", "url"), "W007", message, "what nodes call this machine")
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


def _limits(site: Site, tree: Tree) -> Iterator[Fault]:
    scaling = site.scaling
    if scaling.floor > scaling.max_total:
        message = f"{scaling.floor} is more than max_total, {scaling.max_total}"
        yield tree.fault(("scaling", "floor"), "E022", message)
    for key in ("max_queued", "per_cycle"):
        if scaling.max_total and not getattr(scaling, key):
            yield tree.fault(("scaling", key), "E022", "with 0 no worker can ever start")
    ratio = scaling.queued_ratio
    if ratio is not None and ratio.floor > scaling.max_queued > 0:
        message = f"{ratio.floor} is never reached: max_queued is {scaling.max_queued}"
        yield tree.fault(("scaling", "queued_ratio", "floor"), "W003", message)
    for name, slot in site.slots.items():
        yield from _limits_of(name, slot, site, tree)


def _limits_of(name: str, slot: Slot, site: Site, tree: Tree) -> Iterator[Fault]:
    scaling, memory_mb = site.scaling, size_mb(slot.memory)
    never = f"no worker of slot {name} can ever start"
    if scaling.max_cores is not None and slot.cores > scaling.max_cores:
        message = f"{never}: it has {slot.cores} cores"
        yield tree.fault(("scaling", "max_cores"), "E022", message, f"at least {slot.cores}")
    if scaling.max_memory is not None and memory_mb > size_mb(scaling.max_memory):
        message = f"{never}: it has {memory_mb} MB"
        yield tree.fault(("scaling", "max_memory"), "E022", message, f"at least {slot.memory}")
    if scaling.budget is not None:
        most, each = scaling.budget.node_hours * percent(scaling.budget.stop_at), slot.walltime_s
        if each / 3600 > most:
            message = f"{never}: it may take {each / 3600:g} node-hours of {most:g}"
            remedy = "a larger budget, or a shorter walltime"
            yield tree.fault(("scaling", "budget", "node_hours"), "E022", message, remedy)
    for key in ("max_total", "max_queued", "per_cycle"):
        if 0 < (most := getattr(scaling, key)) < slot.nodes:
            message = f"{never}: an allocation brings {slot.nodes} pilots, and {key} is {most}"
            yield tree.fault(("slots", name, "nodes"), "E022", message)
    if slot.max_total is not None and slot.max_total > scaling.max_total:
        message = f"{slot.max_total} is never reached: scaling.max_total is {scaling.max_total}"
        yield tree.fault(("slots", name, "max_total"), "W003", message)


def _times(site: Site, tree: Tree) -> Iterator[Fault]:
    idle, grace = duration_s(site.scaling.idle_exit), duration_s(site.policy.start_grace)
    for name, slot in site.slots.items():
        walltime, at = slot.walltime_s, ("slots", name, "walltime")
        if walltime < 10:
            yield tree.fault(at, "E023", f"{walltime} s leaves no time to work", "2h")
            continue
        ends = f"a worker of slot {name} ends after {walltime} s"
        if idle >= walltime:
            message = f"{ends}: it is never idle for {idle:.0f} s"
            yield tree.fault(("scaling", "idle_exit"), "E023", message, "less than the walltime")
        if grace >= walltime:
            message = f"{ends}: it is not waited for {grace:.0f} s"
            yield tree.fault(("policy", "start_grace"), "E023", message, "less than the walltime")
        signal = {**site.backend.options, **slot.extra}.get("signal_before")
        if isinstance(signal, int) and signal >= walltime:
            where = (
                ("slots", name, "extra")
                if "signal_before" in slot.extra
                else ("backend", "options")
            )
            message = f"{ends}: it cannot be told {signal} s before"
            yield tree.fault((*where, "signal_before"), "E023", message, "60")


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


def _addresses(site: Site, tree: Tree) -> Iterator[Fault]:
    told: list[tuple[str, str]] = [("url", site.dispatcher.url)]
    told += [("pilot_url", site.dispatcher.pilot_url)] if site.dispatcher.pilot_url else []
    for key, url in told:
        if _host(url) is None:
            yield tree.fault(
                ("dispatcher", key), "E010", f"{url} is no address", "https://HOST:8443"
            )
        elif url.startswith("http://") and not _loopback(url):
            message = "over plain HTTP the token can be read on its way"
            yield tree.fault(("dispatcher", key), "E025", message, f"https{url[4:]}")
    if site.relay is not None and site.relay.url and _host(site.relay.url) is None:
        message = f"{site.relay.url} is no address"
        yield tree.fault(("relay", "url"), "E010", message, "https://HOST:8443")
    key, url = told[-1]
    if site.backend.kind != "local" and site.network == "direct" and _loopback(url):
        message = f"{_host(url)} on a node is the node itself"
        remedy = "set dispatcher.pilot_url to what nodes can reach"
        yield tree.fault(("dispatcher", key), "W007", message, remedy)


def _host(url: str) -> str | None:
    """The host of an address; None: it is none, as `http://[` is."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return None


def _loopback(url: str) -> bool:
    host = _host(url) or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _storage(site: Site, tree: Tree) -> Iterator[Fault]:
    storage = site.storage
    at, url = ("storage", "default_output"), storage.default_output
    if url.startswith("file://") and not any(
        _beneath(url.removeprefix("file://"), root) for root in storage.roots
    ):
        yield tree.fault(at, "E026", f"{url} is beneath none of storage.roots", "name its root")
    if url.startswith(("http://", "https://")) and not url.startswith(storage.http_allow):
        yield tree.fault(at, "E026", f"{url} is not allowed by storage.http_allow", "allow it")
    own = {
        "paths.state": site.paths.state,
        "paths.shared": site.paths.shared,
        "dispatcher.token_file": site.dispatcher.token_file,
        "relay.token_file": site.relay.token_file if site.relay else None,
    }
    for number, root in enumerate(storage.roots):
        for name, path in own.items():
            if path is not None and _beneath(path, root):
                message = f"{name}, {path}, is beneath it"
                yield tree.fault(("storage", "roots", number), "E027", message, "a root of its own")
    for name, path in own.items():
        if path is not None and _beneath(path, site.paths.work):
            message = f"{name}, {path}, is beneath it: pilots and payloads write there"
            yield tree.fault(("paths", "work"), "E027", message, "a directory of its own")


def _beneath(path: str, root: str) -> bool:
    return PurePath(expanded(path)).is_relative_to(expanded(root))


def _people(site: Site, tree: Tree) -> Iterator[Fault]:
    if site.backend.kind != "local" and not site.contacts:
        message = "no contact: whom does an admin of the batch system ask?"
        yield tree.fault(("contacts",), "W004", message, "contacts: [you@example.org]")
    if site.backend.kind != "local" and _beneath_any(site.paths.state, VOLATILE):
        message = f"{site.paths.state} is gone after a reboot, and what it knows with it"
        yield tree.fault(("paths", "state"), "W005", message, "a local disk that stays")


def _beneath_any(path: str, roots: Iterable[str]) -> bool:
    return any(_beneath(path, root) for root in roots)


def _twins(site: Site, tree: Tree) -> Iterator[Fault]:
    seen: dict[Any, str] = {}
    for name, slot in site.slots.items():
        what = (slot.queue, slot.room(), tuple(sorted(map(str, slot.extra.items()))))
        if what in seen:
            message = f"the same as slot {seen[what]}: only that one is ever used"
            yield tree.fault(("slots", name), "W006", message, "remove one")
        seen.setdefault(what, name)


def _backend(site: Site, tree: Tree) -> Iterator[Fault]:
    try:
        plugin = batch_class(site.backend.kind)
    except AilurusError as error:
        yield tree.fault(("backend", "kind"), "E020", error.message, error.remedy)
        return
    for name, slot in site.slots.items():
        if slot.nodes > plugin.most_nodes:
            message = f"an allocation of {site.backend.kind} has {plugin.most_nodes} at most"
            yield tree.fault(("slots", name, "nodes"), "E022", message)
    options = plugin.Options
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


CHECKS: tuple[Callable[[Site, Tree], Iterator[Fault]], ...] = (
    _backend, _paths, _pilot, _network, _panda, _limits, _times, _asking, _addresses, _storage, _people, _twins,
)  # fmt: skip
