"""The OpenAPI 3.1 description of the native API, made from its table of routes."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ailurus import __version__
from ailurus.protocol import messages as m
from ailurus.protocol.api import PREFIX, ROUTES, Route
from ailurus.schema import even

_REF = "#/components/schemas/{name}"
_PATH = re.compile(r"\{(\w+)\}")
_PROBLEM = {
    "description": "Refused; `field` names what is wrong and `remedy` what would help",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def description() -> dict[str, Any]:
    """The whole document."""
    bodies = [route.ask for route in ROUTES if route.method == "POST"]
    answers = [r.answer for r in ROUTES if r.answer is not None and r.answer is not m.Contents]
    _, schemas = msgspec.json.schema_components([*bodies, *answers, m.Problem], ref_template=_REF)
    schemas = even(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ailurus dispatcher",
            "version": __version__,
            "description": "Times are seconds since 1970 (UTC). A request may be repeated: what "
            "creates something carries an id made by the caller.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token of the WLCG profile with the scope of the operation",
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": (route.ask.__doc__ or "").strip(),
        "responses": {"200": _answer(route), "default": _PROBLEM},
        "security": [] if route.scope is None else [{"token": [str(route.scope)]}],
    }
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        }
        for name in _PATH.findall(route.path)
    ]
    if route.method == "GET":
        parameters += _query(route)
    else:
        schema = {"$ref": _REF.format(name=route.ask.__name__)}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if parameters:
        operation["parameters"] = parameters
    return operation


def _query(route: Route) -> list[dict[str, Any]]:
    _, schemas = msgspec.json.schema_components([route.ask])
    schema = even(schemas[route.ask.__name__])
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": one}
        for name, one in schema.get("properties", {}).items()
    ]


def _answer(route: Route) -> dict[str, Any]:
    if route.answer is None:
        return {
            "description": "Server-sent events",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    if route.answer is m.Contents:
        return {
            "description": "The file, to be saved",
            "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        }
    schema = {"$ref": _REF.format(name=route.answer.__name__)}
    return {"description": route.summary, "content": {"application/json": {"schema": schema}}}
