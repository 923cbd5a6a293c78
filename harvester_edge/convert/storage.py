"""CRIC's words about a queue's storage as ours, with the meaning that Pilot 3 gives them.

    copytools, acopytools   the tools that move files, by activity, the first one first
    acopytools_schemas      the protocols that a tool may use, by activity and perhaps by tool
    astorages               the storages that files go to and come from, by activity
    arprotocols             of a storage (`ddmendpoints`): its protocols by activity, the best first

Pilot 3 stages in as `pr` and out as `pw`, else as `default`; logs go to `pl`. Nearly all its tools
find files by Rucio, and so does our mover `rucio`: which plugin moves a file follows from its
protocol then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import plugins
from harvester_edge.convert.keys import EMPTY, Converted

Told = Mapping[str, Any]
BY_RUCIO = {"rucio": "", "gfal": "gfal2", "gfalcopy": "gfal2", "xrdcp": "xrootd"}
"""Pilot 3's tools that find files by Rucio, and the plugin of ours with the same library."""
ALONE = {"mv": "file", "s3": "s3", "objectstore": "s3"}
"""Those that do not, and the scheme of their storage."""
READS, WRITES = ("pr", "read_lan", "default"), ("pw", "write_lan", "default")
LOGS = ("pl", "pls", "plw")
PROTOCOLS = {
    "read_lan": ("read_lan", "pr"),
    "read_wan": ("read_wan",),
    "write_lan": ("write_lan", "pw"),
    "write_wan": ("write_wan",),
}
"""Our activities, and what CRIC calls them."""
NEWER = {"dav": "davs", "xroot": "root"}
CONFIG = "/etc/ailurus/rucio.cfg"
_SECRETS = "credentials are never copied: name their file in `storage.s3.keys_file`"
_NO_PLUGIN = "no plugin of ours moves files by it"
KEYS = ("copytools", "acopytools", "acopytools_schemas", "astorages", "aprotocols")
"""Of a queue, which `storage` tells of."""


def is_storage(config: Told) -> bool:
    """Whether this is the data of a storage."""
    return "arprotocols" in config or "rprotocols" in config or "is_deterministic" in config


def storage(one: Converted, cric: Told, storages: Mapping[str, Told]) -> None:
    """Carry over what a queue's data say of its storage, or tell why not."""
    for key in KEYS:
        if not isinstance(cric.get(key), dict | None) and cric[key] not in EMPTY:
            one.lose(f"cric.{key}", cric[key], "not an object")
    tool_key, tool = _tool(one, cric)
    place_key, place = _place(one, cric)
    about = storages.get(place, {})
    if place and place not in storages:
        why = "its protocols are in CRIC's data of storages: name that file, too"
        one.lose(f"storages.{place}", "", why)
    usable = _described(one, place, about)
    if tool in ALONE:
        _alone(one, tool_key, tool, place, about)
        if place:
            one.lose(place_key, place, f"{tool} asks no Rucio")
    elif place and usable:
        one.set(place_key, "storage.rse", place)
        one.set(tool_key or place_key, "storage.rucio.config", tool or place, CONFIG)
        one.confirm("storage.rucio.config")
        schemes = _carry_protocols(one, cric, place, about, tool)
        if library := BY_RUCIO.get(tool):
            others = [scheme for scheme in schemes if _usual(scheme) not in {library, "file"}]
            if others:
                one.set(tool_key, "storage.plugins", tool, dict.fromkeys(others, library))
        why = "logs, and outputs without a scope, need a place: say `storage.default_output`"
        one.lose("cric.astorages", place, why)
    else:
        if tool and not place:
            one.lose(tool_key, tool, "no storage is named for it")
        for activity, entries in _map(cric.get("aprotocols")).items():
            one.lose(f"cric.aprotocols.{activity}", entries, "no storage is named for it")


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> list[str]:
    """A list of names, or one name."""
    listed = value if isinstance(value, list) else [value]
    return [name for name in listed if isinstance(name, str) and name]


def _first(by_activity: Told, activities: Sequence[str]) -> tuple[str, list[str]]:
    """An activity's names, by the first of the words for it that has any."""
    for activity in activities:
        if names := _names(by_activity.get(activity)):
            return activity, names
    return "", []


# -- tools and storages ----------------------------------------------------------------------------


def _tool(one: Converted, cric: Told) -> tuple[str, str]:
    """Which tool moves files, and the key that says so: the one that writes, else that reads."""
    setups = _map(cric.get("copytools"))
    by_activity = {
        f"acopytools.{name}": names for name, names in _map(cric.get("acopytools")).items()
    }
    writes = [f"acopytools.{name}" for name in WRITES]
    reads = [f"acopytools.{name}" for name in READS]
    by_activity["copytools"] = [*setups]
    chosen = key = ""
    for words in (writes, reads, ("copytools",)):
        activity, names = _first(by_activity, words)
        known = [name for name in names if name in BY_RUCIO or name in ALONE]
        if not chosen and known:
            chosen, key = known[0], f"cric.{activity}"
    used = {
        name for at, names in by_activity.items() if at != "copytools" for name in _names(names)
    }
    for activity, names in by_activity.items():
        for name in _names(names):
            if name == chosen or (activity == "copytools" and name in used):
                continue
            alike = name in BY_RUCIO or name in ALONE
            why = f"{chosen} moves all files here" if alike else "no plugin of ours is like it"
            one.lose(f"cric.{activity}", name, why)
    for name, setup in setups.items():
        if _map(setup) and any(value not in EMPTY for value in setup.values()):
            why = "libraries lie beside the pilot, and their options are those of `storage`"
            one.lose(f"cric.copytools.{name}", setup, why)
    return key, chosen


def _place(one: Converted, cric: Told) -> tuple[str, str]:
    """The site's own storage, and the key that says so: where outputs go, else where inputs come
    from."""
    by_activity = _map(cric.get("astorages"))
    activity, names = _first(by_activity, WRITES)
    if not names:
        activity, names = _first(by_activity, READS)
    if not names:
        for name, told in by_activity.items():
            if told not in EMPTY:
                one.lose(f"cric.astorages.{name}", told, "neither for inputs nor for outputs")
        return "", ""
    for other, told in by_activity.items():
        for name in _names(told):
            if name != names[0]:
                why = (
                    f"a site has one storage of its own, {names[0]}; others are read as Rucio says"
                )
                if other in LOGS:
                    why = "logs go to `storage.default_output`"
                one.lose(f"cric.astorages.{other}", name, why)
    return f"cric.astorages.{activity}", names[0]


def _described(one: Converted, place: str, about: Told) -> bool:
    """Tell of what else is said of a storage; whether jobs can write there."""
    key = f"storages.{place}"
    state = about.get("state", "ACTIVE")
    if state not in ("ACTIVE", *EMPTY):
        one.lose(f"{key}.state", state, "the site may not use it now")
    for name in ("rprotocols", "special_setup", "resource"):
        if about.get(name) not in EMPTY:
            why = _SECRETS if name != "special_setup" else "a site's environment is its nodes' own"
            # Keys of access may stand in it.
            one.lose(f"{key}.{name}", "…", why)
    if about.get("is_deterministic") is False:
        why = "where a new file goes, Rucio would not say"
        one.lose(f"{key}.is_deterministic", False, why)
        one.lose("cric.astorages", place, f"{place} is not deterministic: {why}")
        return False
    return True


# -- protocols -------------------------------------------------------------------------------------


def _carry_protocols(one: Converted, cric: Told, place: str, about: Told, tool: str) -> list[str]:
    """Say by which protocols the storage is read and written; all of them, by scheme."""
    own, queues = _map(about.get("arprotocols")), _map(cric.get("aprotocols"))
    found: dict[str, None] = {}
    for ours, theirs in PROTOCOLS.items():
        key, entries = next(
            (
                (f"{where}.{word}", source[word])
                for where, source in (
                    (f"storages.{place}.arprotocols", own),
                    ("cric.aprotocols", queues),
                )
                for word in theirs
                if source.get(word) not in EMPTY
            ),
            ("", None),
        )
        schemes = _schemes(entries)
        allowed_key, allowed = _allowed(cric, tool, WRITES if "write" in ours else READS)
        if allowed:
            left = [scheme for scheme in allowed if scheme in schemes or not schemes]
            for scheme in schemes:
                if scheme not in left:
                    one.lose(key, scheme, f"{allowed_key} leaves it out")
            key, schemes = allowed_key, left
        if tool == "xrdcp":
            for scheme in [one_ for one_ in schemes if _usual(one_) != "xrootd"]:
                one.lose(key, scheme, "xrdcp does not move files by it")
                schemes.remove(scheme)
        for scheme in [one_ for one_ in schemes if not _usual(one_)]:
            one.lose(key, scheme, _NO_PLUGIN)
            schemes.remove(scheme)
        if schemes:
            to = f"storage.protocols.{ours}"
            one.set(key, to, schemes)
            if ours == "read_wan":
                # There it is how others read this storage.
                one.confirm(to)
        found.update(dict.fromkeys(schemes))
    known = {word for theirs in PROTOCOLS.values() for word in theirs}
    for where, source in ((f"storages.{place}.arprotocols", own), ("cric.aprotocols", queues)):
        for word, entries in source.items():
            if entries not in EMPTY and (word not in known or (source is queues and own)):
                why = "the storage's own protocols count" if word in known else "no such activity"
                one.lose(f"{where}.{word}", entries, why)
    return [*found]


def _schemes(entries: Any) -> list[str]:
    """The schemes of protocols, each an object with its `endpoint`, or a list with one."""
    found = []
    for entry in entries if isinstance(entries, list) else []:
        words = entry.get("endpoint") if isinstance(entry, dict) else entry
        listed = words if isinstance(words, list) else [words]
        for word in listed:
            if isinstance(word, str) and "://" in word:
                scheme = word.partition("://")[0].lower()
                found.append(NEWER.get(scheme, scheme))
    return [*dict.fromkeys(found)]


def _allowed(cric: Told, tool: str, activities: Sequence[str]) -> tuple[str, list[str]]:
    """The protocols that a tool may use, and the key that says so; empty: all."""
    by_activity = _map(cric.get("acopytools_schemas"))
    for activity in activities:
        told = by_activity.get(activity)
        listed = _names(told.get(tool, told.get("default")) if isinstance(told, dict) else told)
        if listed:
            schemes = [NEWER.get(scheme, scheme) for scheme in listed]
            return f"cric.acopytools_schemas.{activity}", [*dict.fromkeys(schemes)]
    return "", []


def _usual(scheme: str) -> str:
    """The plugin that moves files of a scheme; empty: none."""
    name = plugins.MOVED_BY.get(scheme, scheme)
    return name if name in plugins.TABLE["data"] or name in plugins.TABLE["mover"] else ""


def _alone(one: Converted, key: str, tool: str, place: str, about: Told) -> None:
    """A storage that no Rucio knows: outputs go beneath the first of its places."""
    own = _map(about.get("arprotocols"))
    wanted = ALONE[tool]
    for word in ("write_lan", "pw", "write_wan", "read_lan", "pr"):
        entries = own.get(word)
        for entry in entries if isinstance(entries, list) else []:
            url = _beneath(_map(entry), wanted)
            if not url:
                continue
            at = f"storages.{place}.arprotocols.{word}"
            if wanted == "file":
                one.set(at, "storage.roots", entry, [url])
            else:
                one.set(at, "storage.allow", entry, [url])
            one.set(at, "storage.default_output", entry, url)
            one.set(key, "storage.default_output", tool, url)
            one.confirm("storage.default_output")
            return
    one.lose(key, tool, "where its files lie is not said: see `storage.default_output`")


def _beneath(entry: Told, scheme: str) -> str:
    """The place that a protocol names: a directory, or a URL. Empty: it is of another scheme."""
    endpoint, path = str(entry.get("endpoint") or ""), str(entry.get("path") or "")
    found = urlsplit(endpoint).scheme
    if scheme == "file":
        return path if found in ("", "file") and path.startswith("/") else ""
    if found not in (scheme, "https", "http"):
        return ""
    host = endpoint.partition("://")[2].rstrip("/")
    return f"{scheme}://{host}/{path.strip('/')}".rstrip("/") + "/"
