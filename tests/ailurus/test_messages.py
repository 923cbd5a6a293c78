"""What programs of different versions can say to each other."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from ailurus.protocol.api import ROUTES, Route, Scope

PROGRAMS = {Scope.PILOT, Scope.BOOTSTRAP, Scope.WORKER, Scope.EDGE}


def of_programs(route: Route) -> bool:
    return route.scope in PROGRAMS or route.name == "report"  # authorised by its own key


def structs(kind: object) -> Iterator[type[msgspec.Struct]]:
    """The struct types that a message of type `kind` is made of."""
    seen: list[object] = [msgspec.inspect.type_info(kind)]
    done: set[type] = set()
    while seen:
        info = seen.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in done:
                continue
            done.add(info.cls)
            yield info.cls
            seen += [field.type for field in info.fields]
        elif isinstance(info, msgspec.inspect.Type):
            for part in (getattr(info, name) for name in info.__struct_fields__):
                seen += part if isinstance(part, tuple) else [part]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_r7_a_newer_program_is_understood_and_a_users_typo_is_not_swallowed(route: Route) -> None:
    strict = {
        kind.__name__: kind.__struct_config__.forbid_unknown_fields for kind in structs(route.ask)
    }
    if of_programs(route):
        assert not any(strict.values()), strict
    else:
        assert route.ask.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if of_programs(route)], ids=lambda route: route.name
)
def test_r7_what_a_dispatcher_adds_to_an_answer_is_ignored(route: Route) -> None:
    odd = {
        kind.__name__
        for kind in structs(route.answer)
        if kind.__struct_config__.forbid_unknown_fields
    }
    assert odd <= {
        "JobSpec",
        "CredentialUse",
        "EachGpu",
        "InputFile",
        "OutputFile",
        "Payloads",
        "ItemSpec",
    }  # a job is never run without a part of it
