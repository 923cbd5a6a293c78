"""What real servers were asked, asked of ours: alike in status, shape, codes, messages and
commands."""

from __future__ import annotations

import ast
from typing import Any
from urllib.parse import parse_qsl

import pytest

from ailurus.protocol.job import OutputFile

EXACT = {"StatusCode", "success", "message", "command", "status"}
KINDS = {int: "number", float: "number", str: "text", bool: "bool", type(None): "null"}


def differences(theirs: Any, ours: Any, where: str = "$") -> list[str]:
    """Where two answers are not alike: other keys, other kinds, or other words that a client acts
    on."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = {*theirs, *ours}
        found = [
            f"{where}.{key}: only one has it" for key in keys if (key in theirs) != (key in ours)
        ]
        for key in keys & theirs.keys() & ours.keys():
            if key in EXACT and theirs[key] != ours[key]:
                found.append(f"{where}.{key}: {theirs[key]!r} there, {ours[key]!r} here")
            found += differences(theirs[key], ours[key], f"{where}.{key}")
        return found
    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return [f"{where}: {len(theirs)} there, {len(ours)} here"]
        pairs = enumerate(zip(theirs, ours, strict=True))
        return [one for nr, (a, b) in pairs for one in differences(a, b, f"{where}[{nr}]")]
    if KINDS.get(type(theirs), "?") != KINDS.get(type(ours), "?"):
        return [f"{where}: {theirs!r} there, {ours!r} here"]
    return []


def read(kind: str, body: bytes) -> Any:
    text = body.decode()
    if kind == "form":
        return dict(parse_qsl(text, keep_blank_values=True))
    if kind == "json":
        assert text[0] == "{", "Pilot 3 knows JSON by its ends"
        assert text[-1] == "}"
        return ast.literal_eval(
            text.replace("true", "True").replace("false", "False").replace("null", "None")
        )
    return text


@pytest.mark.parametrize("server", ["0.8.1", "1.0.4"])
def test_all_questions_to_real_servers_are_answered_alike(dispatcher, job, recorded, server):
    outputs = (OutputFile(name="nulljob.out"),)
    made = [job(f"j{nr}", queue="STUB_QUEUE", outputs=outputs) for nr in range(20)]
    dispatcher.submit(*made)
    job_id = 0
    found = []
    for line in recorded(f"server-{server}-answers.jsonl"):
        params = line["params"]
        if isinstance(params, dict):
            for name in ("jobId", "job_id", "ids"):
                if name in params:
                    params[name] = type(params[name])(job_id)
        answer = dispatcher.ask(line["path"], params, line["how"])
        if line["name"] == "v1-badjson" and server == "0.8.1":
            assert (
                answer.status == 500
            )  # its words differ between the two; ours are the newer one's
            continue
        ours = read(line["body_as"], answer.body)
        theirs = line["answer"]
        if answer.status != line["status"]:
            found.append(f"{line['name']}: HTTP {line['status']} there, {answer.status} here")
        if answer.type != line["type"]:
            found.append(f"{line['name']}: {line['type']} there, {answer.type} here")
        if isinstance(theirs, str) and theirs != ours:
            found.append(f"{line['name']}: {theirs!r} there, {ours!r} here")
        if line["name"].startswith("s-site"):
            theirs = {**theirs, "data": ours["data"]} if set(theirs["data"]) else theirs
            assert {"activated", "assigned", "running"} <= set(ours["data"]["STUB_QUEUE"])
        found += [f"{line['name']}: {one}" for one in differences(theirs, ours)]
        if isinstance(ours, dict):
            data = ours.get("data")
            jobs = data.get("jobs") if isinstance(data, dict) else ours.get("jobs")
            job_id = int((jobs[-1] if jobs else ours).get("PandaID", job_id))
    assert found == []
