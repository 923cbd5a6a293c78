"""The description is true: well formed, complete, and what it allows the dispatcher can answer
(H1)."""

from __future__ import annotations

import json
import random
import urllib.parse
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ailurus.protocol.api import PREFIX, ROUTES, Scope
from dispatcher.door.openapi import description
from tests.rig.random_content import RandomContent, impatient

DOCUMENT = description()
SCHEMAS = DOCUMENT["components"]["schemas"]


def refs(node: Any):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from refs(value)


def test_it_is_served_without_a_token(door):
    answer = door.ask("GET", "/openapi.json")
    assert (answer.status, answer.json["openapi"]) == (200, "3.1.0")


def test_every_route_is_in_it_once():
    operations = [
        (op["operationId"], method.upper(), path)
        for path, item in DOCUMENT["paths"].items()
        for method, op in item.items()
    ]
    assert sorted(operations) == sorted((r.name, r.method, PREFIX + r.path) for r in ROUTES)


def test_its_schemas_are_schemas_and_its_references_lead_somewhere():
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    for ref in refs(json.loads(json.dumps(DOCUMENT))):
        assert ref.removeprefix("#/components/schemas/") in SCHEMAS


def test_every_operation_says_how_it_refuses_and_what_it_needs():
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert operation["summary"]
            names = [one["name"] for one in operation.get("parameters", [])]
            assert len(names) == len(set(names))


@pytest.fixture
def everybody(dispatcher):
    """Tokens of all kinds, of workers and sites that exist."""
    user = dispatcher.token(*(scope for scope in Scope if scope.value.startswith("compute.")))
    pilot = dispatcher.token(Scope.PILOT)
    ask = {"instance": "i", "queue": "q", "total": {"cores": 4, "memory_mb": 9000, "disk_mb": 9000}}
    worker = dispatcher.ask("POST", "/worker/register", ask, token=pilot).json["token"]
    jobs = [{"name": f"j{nr}", "command": "true", "queue": "q"} for nr in range(20)]
    dispatcher.ask("POST", "/jobs", {"request_id": "r", "jobs": jobs}, token=user)
    return {
        "user": user,
        "admin": dispatcher.token(Scope.ADMIN),
        "worker": worker,
        "pilot": pilot,
        "edge": dispatcher.token(f"{Scope.EDGE}:a"),
        "relay": dispatcher.token(f"{Scope.RELAY}:a"),
    }


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
def test_h1_nothing_that_a_client_sends_is_answered_with_a_5xx(dispatcher, everybody, seed):
    random_content = RandomContent(
        SCHEMAS, seed, wrong=random.Random(seed).choice([0.0, 0.02, 0.2])
    )
    for route in ROUTES:
        if route.answer is None:
            continue
        path = route.path.replace(
            "{job_id}", str(random_content.chance.choice([1, 2, 0, 999, 2**63]))
        )
        operation = DOCUMENT["paths"][PREFIX + route.path][route.method.lower()]
        content = None
        if route.method == "GET":
            query = {
                one["name"]: random_content.of(one["schema"])
                for one in operation.get("parameters", [])
                if one["in"] == "query" and random_content.chance.random() < 0.5
            }
            path += "?" + urllib.parse.urlencode(impatient(route.ask, query), errors="replace")
        else:
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            content = impatient(route.ask, random_content.of(body))
        token = random_content.chance.choice([*everybody.values(), None])
        for name, scope in (
            ("worker", Scope.WORKER),
            ("edge", Scope.EDGE),
            ("relay", Scope.RELAY),
            ("user", Scope.READ),
        ):
            if route.scope is scope and random_content.chance.random() < 0.8:
                token = everybody[name]
        answer = dispatcher.ask(route.method, path, content, token=token)
        assert answer.status < 500, (route.name, path, content, answer.body)
        if answer.status >= 400:
            assert {"title", "status", "field"} <= answer.json.keys()
            assert b"Traceback" not in answer.body
