"""Waiting for what has no event to wait for: threads, other processes, the insides of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 0.02


def until(
    true: Callable[[], T],
    seconds: float = 20.0,
    why: str = "it did not happen",
    every_s: float = EVERY_S,
) -> T:
    """What `true` returns once that is something. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{why}: not within {seconds:g} s")
        time.sleep(every_s)
    return found


async def eventually(true: Callable[[], T], seconds: float = 10.0) -> T:
    """The same for a test that runs in an event loop."""
    async with asyncio.timeout(seconds):
        while not (found := true()):  # noqa: ASYNC110
            await asyncio.sleep(EVERY_S)
    return found
