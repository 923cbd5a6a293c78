"""How the loops of an edge or a relay fare, in a file of its state directory: for `status`, `why` and
`doctor`, which read what lies on disk and ask no process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ailurus.logs import Log
from ailurus.loops import Loops
from harvester_edge.files import write_whole

NAME = "loops.json"


class Faring(msgspec.Struct, frozen=True, kw_only=True):
    """What a process last said of its loops."""

    failures: dict[str, int] = {}
    down: tuple[str, ...] = ()


class Teller:
    """Writes the file when something has changed."""

    def __init__(self, state: Path, loops: Loops, log: Log) -> None:
        self._file, self._loops, self._log = state / NAME, loops, log
        self._told: tuple[dict[str, int], tuple[str, ...]] | None = None

    def tell(self) -> None:
        """Say how it is now; that nobody can be told stops nothing."""
        down = self._loops.down()
        now = (self._loops.failures(), tuple(one.loop for one in down))
        if now == self._told:
            return
        try:
            write_whole(
                self._file,
                msgspec.json.encode(Faring(failures=now[0], down=tuple(map(str, down)))),
            )
        except OSError as error:
            self._log.warning("loops_not_told", reason=str(error))
        else:
            self._told = now


def read(state: Path) -> Faring:
    """What was last said there."""
    try:
        return msgspec.json.decode((state / NAME).read_bytes(), type=Faring)
    except (OSError, msgspec.MsgspecError):
        return Faring()
