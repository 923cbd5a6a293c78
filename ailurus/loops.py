"""The supervisor of endless loops: none of them ends, fails or stands still unnoticed.

A loop is a function that never returns, run by `Loops`, one for each process. What it raises is
logged once with its trace, counted, and the function is called again after a pause that grows. It
calls `turned()` once a turn. A loop that keeps failing, or stays longer in one turn than a turn can
take, is *down*: `Loops.down()` names it, for readiness, heartbeats and `doctor`.

Threads are here; tasks of asyncio, which a pilot must not import, in `ailurus.tasks`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from msgspec import Struct

from ailurus.logs import Log

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
# A loop that fails for so long is down.
DOWN_S = 30.0
# A loop that has turned, and has not failed for so long, is healthy again. Longer than any pause.
CALM_S = 30.0
# Between two lines of the log about the same fault.
REPEAT_S = 600.0
# Between two looks at the clock no more time than this counts: a process that was stopped stood
# still as a whole.
STEP_S = 5.0
Body = Callable[["Loop"], object]
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


class Ended(RuntimeError):
    """A loop's function returned although nobody had ended it."""


class Down(Struct, frozen=True):
    """A loop that does not do its work: the reason, and for how many seconds."""

    loop: str
    why: str
    for_s: float

    def __str__(self) -> str:
        return f"the loop `{self.loop}` is down for {self.for_s:.0f} s: {self.why}"


class Loop:
    """The state of one endless function. Made by `Loops.add`."""

    def __init__(
        self,
        name: str,
        turn_s: float | None,
        clock: Callable[[], float],
        longest_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self.name = name
        self._longest_s = longest_s
        self.failures = 0
        self._turn_s = turn_s
        self._clock = clock
        self._deadline = None if turn_s is None else clock() + turn_s
        self._failing_since: float | None = None
        self._failed_at = 0.0
        self._turned_since = True
        self._pause_s = FIRST_PAUSE_S
        self._why = ""
        # By fault: when it was logged, and the failures until then.
        self._logged: dict[str, tuple[float, int]] = {}

    def turned(self, wait_s: float | None = 0.0) -> None:
        """Note that a turn went well and the next one begins within `wait_s` seconds; None: with
        an event, which is noted by another call. To be called before a wait, however long that
        may be."""
        now = self._clock()
        self._turned_since = True
        self._deadline = (
            None if self._turn_s is None or wait_s is None else now + wait_s + self._turn_s
        )

    def failed(self, error: BaseException, log: Log) -> float:
        """Note what a turn raised. Called while it is handled; returns the pause before the next
        try in seconds."""
        now = self._clock()
        self._heal(now)
        if self._failing_since is None:
            self._failing_since, self._pause_s = now, FIRST_PAUSE_S
        self._failed_at, self._turned_since, self._deadline = now, False, None
        self.failures += 1
        self._why = f"{type(error).__name__}: {error}".rstrip(": ")[:300]
        self._log_fault(error, now, log)
        pause, self._pause_s = self._pause_s, min(2 * self._pause_s, self._longest_s)
        return pause

    def down(self, now: float) -> Down | None:
        """Why it does not work at `now`, if it does not. Any thread may call this: it changes
        nothing, and reads once what the loop's own thread may change meanwhile."""
        since, deadline = self._failing_since, self._deadline
        if since is not None and not self._calm(now):
            # One that turns between failures is down when these have gone on for so long.
            for_s = (self._failed_at if self._turned_since else now) - since
            return Down(self.name, self._why, for_s) if for_s >= DOWN_S else None
        if deadline is not None and now > deadline:
            why = f"one turn takes longer than {self._turn_s:g} s"
            return Down(self.name, why, now - deadline + (self._turn_s or 0.0))
        return None

    @property
    def watched(self) -> bool:
        """Whether the turn that it is in has a bound."""
        return self._deadline is not None

    @property
    def failing(self) -> bool:
        """Whether it failed and is not known to be healthy again."""
        return self._failing_since is not None and not self._calm(self._clock())

    def _calm(self, now: float) -> bool:
        return self._turned_since and now - self._failed_at >= CALM_S

    def _heal(self, now: float) -> None:
        if self._failing_since is not None and self._calm(now):
            self._failing_since, self._pause_s = None, FIRST_PAUSE_S
            self._logged.clear()

    def _log_fault(self, error: BaseException, now: float, log: Log) -> None:
        """Log a fault when it is new, and then every ten minutes. The same fault is an error of the
        same type, raised at the same line, with the same message but for numbers."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        fault = f"{type(error).__name__} {where} {_NUMBERS.sub('', str(error))[:200]}"
        at, failures = self._logged.get(fault, (None, 0))
        if at is None:
            log.error("loop_failed", trace=True, loop=self.name, why=self._why)
        elif now - at >= REPEAT_S:
            log.error(
                "loop_still_fails", loop=self.name, why=self._why, times=self.failures - failures
            )
        else:
            return
        if len(self._logged) > 100:
            self._logged.clear()
        self._logged[fault] = (now, self.failures)


class Loops:
    """All loops of a process."""

    def __init__(
        self,
        log: Log,
        *,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self.on_failure = on_failure
        """Called after a failure was noted, in the loop's own thread."""
        self._clock = clock
        # Guards the two times: a look of one thread within another's would count time twice.
        self._lock = threading.Lock()
        self._awake, self._looked = 0.0, clock()
        self._closing = threading.Event()
        self._loops: dict[str, Loop] = {}

    @property
    def names(self) -> list[str]:
        """Of all loops that were ever begun."""
        return list(self._loops)

    def failures(self) -> dict[str, int]:
        """How often each loop has failed so far."""
        return {name: loop.failures for name, loop in list(self._loops.items())}

    def down(self) -> list[Down]:
        """The loops that do not do their work."""
        now = self.now()
        found = (loop.down(now) for loop in list(self._loops.values()))
        return [one for one in found if one is not None]

    def next_check_s(self) -> float | None:
        """In how many seconds `down` may change; None: only after a failure."""
        if any(loop.failing or loop.watched for loop in list(self._loops.values())):
            return STEP_S
        return None

    def now(self) -> float:
        """Seconds that this process was awake. Any thread may call this."""
        with self._lock:
            now = self._clock()
            passed, self._looked = now - self._looked, now
            self._awake += min(max(passed, 0.0), STEP_S)
            return self._awake

    def add(
        self, name: str, turn_s: float | None = None, longest_s: float = LONGEST_PAUSE_S
    ) -> Loop:
        """Register a loop that its caller runs. `turn_s`: seconds that one turn can take; None: no
        bound. `longest_s`: the longest pause between two tries."""
        loop = self._loops[name] = Loop(name, turn_s, self.now, longest_s)
        return loop

    def once_failed(self, name: str, error: BaseException) -> None:
        """Count and log what one of many short tasks of this name raised: the others go on, and the
        name is down only while they go on failing. Called while `error` is handled."""
        loop = self._loops.get(name) or self.add(name)
        self.note(loop, error)
        loop.turned(None)

    def thread(
        self,
        name: str,
        body: Body,
        *,
        turn_s: float | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> threading.Thread:
        """A started thread that calls `body` again and again; it ends when `body` returns while
        `over()` is true, or after `close`. Raises RuntimeError when the system gives no thread."""
        loop = self.add(name, turn_s)
        kept = threading.Thread(target=self.keep, args=(loop, body, over), name=name, daemon=True)
        kept.start()
        return kept

    def keep(self, loop: Loop, body: Body, over: Callable[[], bool] = lambda: False) -> None:
        """Call `body` until it is over, in the thread of the caller."""
        while not (over() or self._closing.is_set()):
            try:
                body(loop)
                if over() or self._closing.is_set():
                    return
                raise Ended("it returned although nobody had ended it")
            # A thread that exits is as silent as one that fails.
            except BaseException as error:  # noqa: BLE001
                pause_s = self.note(loop, error)
            self._closing.wait(pause_s)

    def note(self, loop: Loop, error: BaseException) -> float:
        """Count and log what a turn of `loop` raised; returns the pause before the next in seconds.
        Called while `error` is handled."""
        try:
            return loop.failed(error, self._log)
        finally:
            self.on_failure()

    def close(self) -> None:
        """Call no loop again."""
        self._closing.set()
