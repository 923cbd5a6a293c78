"""Queries of the routes of tasks."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.fields import Whole


class TasksQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks to list, newest first."""

    state: Annotated[str, Meta(max_length=20)] = ""
    user: Annotated[str, Meta(max_length=200)] = ""
    before: Whole | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class TaskQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task."""

    task_id: Whole


class TaskItemsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items of a step of a task, after a point; in one state if it is given."""

    task_id: Whole
    step: Annotated[str, Meta(min_length=1, max_length=200)]
    state: Annotated[str, Meta(max_length=20, pattern=r"^(open|ready|failed|finished)?(?!\n)$")] = (
        ""
    )
    after: Annotated[int, Meta(ge=-1, le=2**62)] = -1
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class PointsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points of a search in their order, after one."""

    task_id: Whole
    step: Annotated[str, Meta(min_length=1, max_length=200)]
    after: Annotated[int, Meta(ge=-1, le=2**62)] = -1
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
