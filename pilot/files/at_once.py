"""Several files at a time, where that is faster: a server far away takes its time for each, while
a near one answers before another thread would have begun."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from pilot.clock import SYSTEM, Clock
from pilot.ports import Check

T = TypeVar("T")
SLOW_S = 0.02
"""What takes longer waits for others more than for this node's CPU."""
SLOW_IN_A_ROW = 2
"""One may be by itself: the first, which connects, or any in a busy moment of this node."""


class AnotherFailed(Exception):
    """Ends what is under way when the whole has failed."""


def at_once(
    items: Sequence[T],
    act: Callable[[T, Check], None],
    most: int,
    *,
    slow: bool = False,
    clock: Clock = SYSTEM,
) -> None:
    """Do `act` with each item: one by one until two in a row were slow, then up to `most` in
    threads; `slow` says that the first will be. After a failure none is begun, and the check that
    `act` got ends those under way. Raises what failed first."""
    todo = deque(items)
    failed: list[BaseException] = []

    def check() -> None:
        if failed:
            raise AnotherFailed

    def work() -> None:
        while not failed:
            try:
                item = todo.popleft()
            except IndexError:
                return
            try:
                act(item, check)
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                failed.append(error)

    in_a_row = SLOW_IN_A_ROW if slow else 0
    while todo and in_a_row < SLOW_IN_A_ROW:
        began = clock.monotonic()
        act(todo.popleft(), check)
        in_a_row = in_a_row + 1 if clock.monotonic() - began > SLOW_S else 0
    threads: list[threading.Thread] = []
    for nr in range(min(most, len(todo)) - 1):
        thread = threading.Thread(target=work, name=f"files-{nr}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The node gives no more; what is there does it all.
            break
        threads.append(thread)
    work()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
