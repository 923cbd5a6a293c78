"""Harvester's queue configuration and CRIC's queue data as site files of ours, with a report of what was
carried over and what was not. Pure: JSON in, values out.

One queue becomes one site. What a site must know and neither says (addresses, paths) is filled in and
listed under `confirm`. What becomes of each key: `convert_keys.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ailurus.protocol.errors import AilurusError
from harvester_edge.convert_keys import (
    CRIC,
    EMPTY,
    HARVESTER,
    KINDS,
    MOST,
    SUBMITTER,
    Converted,
    shape,
)


def read(texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Queues of Harvester and of CRIC in files: by name, templates filled in."""
    harvester: dict[str, Any] = {}
    cric: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            found = json.loads(text)
        except ValueError as error:
            raise AilurusError(f"{name} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise AilurusError(f"{name} holds no object of queues")
        if _is_cric(found):  # one queue by itself
            found = {str(found.get("nickname") or found.get("name") or name): found}
        for queue, told in found.items():
            if not isinstance(told, dict):
                raise AilurusError(f"{name}: {queue} is no queue", remedy="a JSON object by queue")
            (cric if _is_cric(told) else harvester)[queue] = told
    return harvester, cric


def _is_cric(told: Mapping[str, Any]) -> bool:
    return ("corecount" in told or "maxrss" in told or "panda_resource" in told) and (
        "submitter" not in told
    )


def convert(harvester: Mapping[str, Any], cric: Mapping[str, Any]) -> Iterator[Converted]:
    """A site for each queue; a template is no queue unless nothing else is there."""
    used = {told.get("templateQueueName") for told in harvester.values()}
    templates = {
        name for name, told in harvester.items() if told.get("isTemplateQueue") or name in used
    }
    queues = [*dict.fromkeys([*harvester, *cric])]
    for queue in [name for name in queues if name not in templates] or queues:
        yield _site(queue, _resolved(queue, harvester), cric.get(queue, {}))


def _resolved(queue: str, harvester: Mapping[str, Any]) -> dict[str, Any]:
    """A queue over its template; plugin blocks are merged key by key, `common` into each of them."""
    told = harvester.get(queue, {})
    base = harvester.get(str(told.get("templateQueueName")), {})
    merged = {**base, **told}
    for key in base.keys() & told.keys():
        if isinstance(base[key], dict) and isinstance(told[key], dict):
            merged[key] = {**base[key], **told[key]}
    common = merged.pop("common", {})
    if isinstance(common, dict) and isinstance(merged.get("submitter"), dict):
        merged["submitter"] = {**common, **merged["submitter"]}
    return merged


def _site(queue: str, harvester: dict[str, Any], cric: dict[str, Any]) -> Converted:
    slug = re.sub(r"[^a-z0-9]+", "-", queue.lower()).strip("-")[:63].strip("-") or "site"
    slot: dict[str, Any] = {"queue": re.sub(r"[^A-Za-z0-9_.:+@=-]", "_", queue)}
    site: dict[str, Any] = {
        "schema": 1,
        "site": slug,
        "extends": "",
        "description": f"Converted from queue {queue}",
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
        "slots": {"std": slot},
        "scaling": {},
    }
    one = Converted(queue=queue, site=site)
    _backend(one, harvester, cric)
    for key, value in cric.items():
        _carry(one, CRIC, key, value, "cric.")
    submitter = harvester.get("submitter") or {}
    shape(one, submitter)  # first: limits are multiplied by nodes
    for key, value in submitter.items():
        _carry(one, SUBMITTER, key, value, "submitter.")
    for key, value in harvester.items():
        if key != "submitter":
            _carry(one, HARVESTER, key, value, "")
    _complete(one, slot)
    return one


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


def _complete(one: Converted, slot: dict[str, Any]) -> None:
    """What a site file must say and nobody has said."""
    usual = {"cores": 1, "memory": "2GiB", "disk": "20GiB", "walltime": "1d"}
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
