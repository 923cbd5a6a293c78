"""The state of the loops of an edge or a relay, in a file of its state directory: for `status`,
`why` and `doctor`, which read what is on disk and call no process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ailurus.logs import Log
from ailurus.loops import Loops
from harvester_edge.files import write_whole

NAME = "loops.json"


class LoopStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Failed turns of each loop, and the loops that do not do their work."""

    failures: dict[str, int] = {}
    down: tuple[str, ...] = ()


class LoopStatusWriter:
    """Writes the file when something has changed."""

    def __init__(self, state: Path, loops: Loops, log: Log) -> None:
        self._file, self._loops, self._log = state / NAME, loops, log
        self._written: tuple[dict[str, int], tuple[str, ...]] | None = None

    def write(self) -> None:
        """Write the state of now, if it is new. Raises nothing: a full disk stops no loop."""
        down = self._loops.down()
        now = (self._loops.failures(), tuple(one.loop for one in down))
        if now == self._written:
            return
        try:
            write_whole(
                self._file,
                msgspec.json.encode(LoopStatus(failures=now[0], down=tuple(map(str, down)))),
            )
        except OSError as error:
            self._log.warning("loop_status_not_written", reason=str(error))
        else:
            self._written = now


def read(state: Path) -> LoopStatus:
    """The state last written there; nothing if there is none."""
    try:
        return msgspec.json.decode((state / NAME).read_bytes(), type=LoopStatus)
    except (OSError, msgspec.MsgspecError):
        return LoopStatus()
