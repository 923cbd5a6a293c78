"""Harvester's queue configuration and CRIC's queue data as site files of ours, with a report of
what was carried over and what was not. JSON in, values out.

One queue becomes one site, which `lint` accepts: what it refuses is taken out and reported. What a
site must know and neither says (addresses, paths) is filled in and listed under `confirm`. What
becomes of each key: `keys.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from ailurus.protocol.errors import AilurusError
from harvester_edge import lint
from harvester_edge.convert.keys import (
    CRIC,
    EMPTY,
    HARVESTER,
    KINDS,
    MOST,
    SUBMITTER,
    Converted,
    shape,
)
from harvester_edge.convert.storage import is_storage, storage
from harvester_edge.lint.document import PROFILES

DEEPEST = 50
TYPES = (("submitter", dict, "object"), ("templateQueueName", str, "text"))
# What a profile says, and what does not go with it.
BLAMED = {
    "policy.start_grace": "slots.std.walltime",
    "scaling.idle_exit": "slots.std.walltime",
    "backend.options.signal_before": "slots.std.walltime",
}


class Read(NamedTuple):
    """What files hold, by name and as it stands there."""

    harvester: dict[str, Any]
    cric: dict[str, Any]
    storages: dict[str, Any]


def read(texts: Mapping[str, str]) -> Read:
    """Queues of Harvester, queues and storages of CRIC in files. Raises AilurusError for what holds
    neither."""
    found = Read({}, {}, {})
    for name, text in texts.items():
        _read_into(found, name, text)
    return found


def _read_into(into: Read, name: str, text: str) -> None:
    found = _json(name, text)
    if not isinstance(found, dict):
        raise AilurusError(f"{name} holds no object of queues")
    # One queue or storage by itself.
    if _is_cric(found) or is_storage(found):
        found = {str(found.get("nickname") or found.get("name") or name): found}
    for queue, config in found.items():
        if not isinstance(config, dict):
            raise AilurusError(f"{name}: {queue} is no queue", remedy="a JSON object by queue")
        for key, kind, what in TYPES:
            if not isinstance(config.get(key), kind | None):
                raise AilurusError(f"{name}: {queue}: {key} is no {what}")
        if is_storage(config):
            into.storages[queue] = config
        else:
            (into.cric if _is_cric(config) else into.harvester)[queue] = config


def _json(name: str, text: str) -> Any:
    """What a file holds. Refused is what could not be written again: half a character, a bottomless
    tree."""
    try:
        found = json.loads(text)
        if _deeper(found, DEEPEST):
            raise RecursionError
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise AilurusError(f"{name} is nested more than {DEEPEST} deep, as no queue is") from None
    except ValueError as error:
        raise AilurusError(f"{name} is not JSON: {error}") from None
    return found


def _deeper(value: Any, most: int) -> bool:
    layer = [value]
    for _ in range(most):
        layer = [
            part
            for one in layer
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(layer)


def _is_cric(config: Mapping[str, Any]) -> bool:
    return ("corecount" in config or "maxrss" in config or "panda_resource" in config) and (
        "submitter" not in config
    )


def convert(
    harvester: Mapping[str, Any],
    cric: Mapping[str, Any],
    storages: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Iterator[Converted]:
    """A site for each queue; a template is no queue unless nothing else is there. `storages`:
    CRIC's data of those that queues name."""
    used = {name for config in harvester.values() if (name := config.get("templateQueueName"))}
    templates = {
        name for name, config in harvester.items() if config.get("isTemplateQueue") or name in used
    }
    queues = [*dict.fromkeys([*harvester, *cric])]
    for queue in [name for name in queues if name not in templates] or queues:
        one = _site(queue, _resolved(queue, harvester), cric.get(queue, {}))
        storage(one, cric.get(queue, {}), storages)
        template = harvester.get(queue, {}).get("templateQueueName")
        if template and template not in harvester:
            one.lose(
                "templateQueueName", template, "no file has it, so all that it says is missing"
            )
        _accepted(one)
        yield one


def _resolved(queue: str, harvester: Mapping[str, Any]) -> dict[str, Any]:
    """A queue over its template; plugin blocks are merged key by key, `common` into the
    submitter's."""
    config = harvester.get(queue, {})
    template = config.get("templateQueueName")
    base = harvester.get(template, {}) if template else {}
    merged = {**base, **config}
    for key in base.keys() & config.keys():
        if isinstance(base[key], dict) and isinstance(config[key], dict):
            merged[key] = {**base[key], **config[key]}
    if isinstance(merged.get("common"), dict) and merged.get("submitter"):
        merged["submitter"] = {**merged.pop("common"), **merged["submitter"]}
    return merged


def _site(queue: str, harvester: dict[str, Any], cric: dict[str, Any]) -> Converted:
    slug = _slug(queue)
    name = re.sub(r"[^A-Za-z0-9_.:+@=-]", "_", queue).lstrip(".:+@=-")[:200] or slug
    site: dict[str, Any] = {
        "schema": 1,
        "site": slug,
        "extends": "",
        "description": f"Converted from queue {queue[:200]}",
        "contacts": ["somebody@site.example"],
        "confirm": [
            "contacts",
            "dispatcher.url",
            "dispatcher.token_file",
            "paths.work",
            "paths.state",
        ],
        "dispatcher": {
            "url": "https://dispatcher.example",
            "token_file": f"/etc/ailurus/{slug}.token",
        },
        "paths": {"work": "/scratch/ailurus", "state": f"/var/lib/ailurus/{slug}"},
        "slots": {"std": {"queue": name}},
        "scaling": {},
    }
    one = Converted(queue=queue, site=site)
    if name != queue:
        one.lose("queue", queue, f"here it is {name}: letters, digits and _ . : + @ = -")
        one.confirm("slots.std.queue")
    _backend(one, harvester, cric)
    for key, value in cric.items():
        _carry(one, CRIC, key, value, "cric.")
    submitter = harvester.get("submitter") or {}
    # First: limits are multiplied by nodes.
    shape(one, submitter)
    for key, value in submitter.items():
        _carry(one, SUBMITTER, key, value, "submitter.")
    for key, value in harvester.items():
        if key != "submitter":
            _carry(one, HARVESTER, key, value, "")
    return one


def _slug(queue: str) -> str:
    """The site's name, and its file's: never a profile's, which the file would then extend
    instead."""
    slug = re.sub(r"[^a-z0-9]+", "-", queue.lower()).strip("-")[:58].strip("-") or "site"
    return f"{slug}-site" if (PROFILES / f"{slug}.yaml").exists() else slug


def _backend(one: Converted, harvester: dict[str, Any], cric: dict[str, Any]) -> None:
    submitter = harvester.get("submitter") or {}
    name = str(submitter.get("module", "")).rsplit(".", 1)[-1] or str(submitter.get("name", ""))
    for word, profile, _ in KINDS:
        if word in name.lower():
            one.set("submitter.module", "extends", profile)
            return
    profile = "htcondor" if cric.get("queues") or not submitter else "slurm-shared"
    one.site["extends"] = profile
    one.confirm("backend.kind")
    if submitter:
        why = f"no batch system of ours; {profile} is put in its place"
        one.lose("submitter.module", submitter.get("module", name), why)


def _carry(one: Converted, table: Mapping[str, Any], key: str, value: Any, prefix: str) -> None:
    if key.strip("_").startswith("comment") or value in EMPTY:
        return
    rule = table.get(key)
    if callable(rule):
        rule(one, prefix + key, value)
    else:
        one.lose(prefix + key, value, rule or "this key is not known here")


def _accepted(one: Converted) -> None:
    """Complete the site, and take out of it what `lint` refuses, until it refuses nothing."""
    with TemporaryDirectory() as place:
        file = Path(place) / f"{one.site['site']}.yaml"
        while True:
            _complete(one)
            file.write_text(yaml.safe_dump(one.site), "utf-8")
            faults = [fault for fault in lint.faults(file) if fault.rule.startswith("E")]
            keys = {fault.key.partition("[")[0]: fault.message for fault in faults}
            refused = {BLAMED.get(key, key): message for key, message in keys.items()}
            places = [it.to for it in one.carried if it.to in refused]
            if not places:
                return
            for to in places:
                one.drop(to, f"`lint` refuses it: {refused[to]}")


def _complete(one: Converted) -> None:
    """What a site file must say and nobody has said."""
    usual = {"cores": 1, "memory": "2GiB", "disk": "20GiB", "walltime": "1d"}
    slot = one.site["slots"]["std"]
    for key, value in usual.items():
        if key not in slot:
            slot[key] = value
            one.confirm(f"slots.std.{key}")
    scaling = one.site.setdefault("scaling", {})
    if "max_total" not in scaling:
        scaling["max_total"] = min(MOST, 10 * one.nodes)
        one.confirm("scaling.max_total")
    ratio = scaling.get("queued_ratio")
    if ratio is not None and "of_running" not in ratio:
        one.drop("scaling.queued_ratio.floor", "it is the floor of a ratio that is not set")
    elif ratio is not None and "max_queued" not in scaling:
        scaling["max_queued"] = scaling["max_total"]
