"""What is looked up by a key that a caller may name says how its owner is compared."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import dispatcher
from dispatcher.rules import records, views, worker_records
from dispatcher.store.queries import statements

pytestmark = pytest.mark.field("A4")

KEYS = {
    "job_id", "ids", "worker_id", "intent", "instance", "request_id", "parent", "child", "command_id",
    "site", "harvester",
}  # fmt: skip
DOORS = {
    "delegation", "users", "workers", "registration", "liveness", "heartbeats", "conclusions", "nodes", "edges",
    "relays", "feeds", "live", "tasks", "acquire", "calls", "commands", "files", "figures", "harvester",
    "legacy", "payload_logs", "actions", "reasons", "registrar", "retries", "updates", "uploads",
}  # fmt: skip
"""Modules that answer callers: what they look up by a key, a caller may have named."""
READERS = (records, worker_records, views)
COMPARED = {
    "user": r"\bowner = :owner\b|\bowner, request_id\b",
    "site": r"\bsite = :site\b|on conflict \(site\)",
    "harvester": r"\bharvester = :harvester\b|intent like 'harvester:%'|on conflict \(harvester, command\)",
}


@cache
def declared() -> dict[str, str]:
    return {name: one.owner for name, one in statements().items() if one.owner}


@cache
def callers() -> dict[str, set[tuple[str, str]]]:
    """By statement the modules, and there the classes and functions, in which it is named."""
    found = defaultdict(set)
    reading = readers()

    def walk(node: ast.AST, module: str, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*names, child.name)
            if isinstance(child, ast.Constant) and child.value in statements():
                found[child.value].add((module, inner))
            if isinstance(child, ast.Attribute):
                for name in reading[ast.unparse(child)]:
                    found[name].add((module, inner))
            walk(child, module, inner)

    for file in Path(dispatcher.__file__).parent.rglob("*.py"):
        walk(ast.parse(file.read_text()), file.stem, ())
    return found


def readers() -> dict[str, set[str]]:
    """By function that reads records the statements that it names: who calls it calls them."""
    names = defaultdict(set)
    for module in READERS:
        for function in ast.parse(Path(module.__file__).read_text("utf-8")).body:
            for node in ast.walk(function):
                if isinstance(node, ast.Constant) and node.value in statements():
                    short = module.__name__.rpartition(".")[2]
                    names[f"{short}.{function.name}"].add(node.value)
    return names


def keyed() -> list[str]:
    """The statements that find something by a key which a caller may name, where one may."""
    looked = []
    for name, one in statements().items():
        made = one.text.startswith("insert") and "on conflict" not in one.text
        keys = KEYS & one.parameters
        if keys and not made and any(module in DOORS for module, _ in callers()[name]):
            looked.append(name)
    return looked


OWN = {
    "worker.register": "the caller has just claimed or made it",
    "worker.state": "of the worker's own token",
    "worker.describe": "of the worker's own token",
    "worker.home": "whose site the relay compares",
    "worker.phase": "of the worker's own token, or found with its site or its Harvester",
    "worker.fill": "of a Harvester's worker that was found by it",
    "worker.serve": "of a Harvester's worker that was found by it",
    "worker.row": "of the worker's own token",
    "worker.place": "of an attempt that was found, to compare its queue",
}
"""Keyed by the id of a worker that a token, or the statement before, has given."""


@pytest.mark.parametrize("name", keyed())
def test_a_statement_with_a_key_of_the_callers_says_how_its_owner_is_compared(name):
    if name in OWN:
        return
    assert name in declared(), f"{name}: say in store/sql how its owner is compared"
    how = declared()[name]
    if how.startswith("checked by "):
        checking = set(how.removeprefix("checked by ").split(", "))
        for module, functions in callers()[name]:
            if module in DOORS:
                assert checking & set(functions), f"{name} in {module}: {functions} is not declared"
    elif not how.startswith("in the key"):
        assert re.search(COMPARED[how], statements()[name].text), (
            f"{name} does not compare its {how}"
        )


def test_the_walk_sees_the_statements_that_matter():
    seen = set(keyed())
    assert {"job.row", "job.standing", "worker.planned", "worker.drain", "attempt.get"} <= seen
    assert not set(OWN) - seen
    assert not set(declared()) - set(statements())
