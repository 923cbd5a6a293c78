"""The same thing on several nodes of a payload at once: each may take seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

from ailurus.protocol.errors import Code
from pilot.ports import Check, JobError

T = TypeVar("T")
MOST = 16
"""How many at once."""


def on_all(todo: Sequence[Callable[[Check], T]], check: Check) -> list[T]:
    """What they return, in their order. Each is given a check, which it has to call now and then:
    that raises once `check` does or another has failed. Raises the first error, after all have
    ended."""
    if len(todo) == 1:
        return [todo[0](check)]
    # Late: most jobs have one node.
    from concurrent.futures import ThreadPoolExecutor

    failed: list[Exception] = []

    def still() -> None:
        if failed:
            raise failed[0]
        check()

    def run(one: Callable[[Check], T]) -> list[T]:
        try:
            still()
            return [one(still)]
        except Exception as error:  # noqa: BLE001 - raised below
            failed.append(error)
            return []

    try:
        with ThreadPoolExecutor(min(len(todo), MOST), "nodes") as pool:
            made = [*chain.from_iterable(pool.map(run, todo))]
    except RuntimeError:
        what = "the pilot cannot start a thread"
        raise JobError(Code.INTERNAL, what, transient=True) from None
    if failed:
        raise failed[0]
    return made
