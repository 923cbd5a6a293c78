"""What dead pilots left in a spool goes on with the pilot that finds it."""

from __future__ import annotations

from pathlib import Path

from ailurus.logs import Log
from pilot import own_directory
from pilot.clock import SYSTEM, Clock
from pilot.upstream.reporter import Reporter
from pilot.upstream.spool import Journal, Spool
from pilot.workdir import remove_tree

LOOK_S, LONGEST_LOOK_S = 60.0, 3600.0
"""Between looks for pilots that died on the same spool."""
SHARE = 1e-4
"""Of a pilot's time that goes into looks: a spool that is slow, or that thousands of pilots share,
is looked at less often."""
_log = Log("pilot")


def adopting(
    spool: Spool, reporter: Reporter, workdir: Path | None = None, clock: Clock = SYSTEM
) -> Adoption:
    """An adoption that has looked once, and looks again from the cleaner's thread, if that runs.
    `workdir`: where pilots have their directories."""
    adoption = Adoption(spool, reporter, clock, workdir)
    reporter.cleaner.look_out(adoption.look, adoption.look())
    return adoption


class Adoption:
    """Takes over what dead pilots left: reports of their attempts, leftovers in storage, and
    directories. `journals`: theirs, the caller's to close at its end."""

    def __init__(
        self,
        spool: Spool,
        reporter: Reporter,
        clock: Clock = SYSTEM,
        workdir: Path | None = None,
    ) -> None:
        self.journals: list[Journal] = []
        self._spool, self._reporter, self._clock = spool, reporter, clock
        self._workdir = workdir

    def look(self) -> float:
        """Take what is there now; after how many seconds to look again."""
        began = self._clock.monotonic()
        try:
            for journal in list(self._spool.orphans()):
                self._take(journal)
        except OSError as error:
            _log.warning("spool_not_read", what=error.strerror)
        if self._workdir is not None:
            # Those that died before a job came have no line in any journal.
            own_directory.sweep(self._workdir)
        took_s = self._clock.monotonic() - began
        return min(max(LOOK_S, took_s / SHARE), LONGEST_LOOK_S)

    def _take(self, journal: Journal) -> None:
        owed = journal.owed()
        if owed:
            self.journals.append(journal)
        for one in owed:
            self._reporter.owe(
                one.report,
                journal,
                seal=one.seal,
                adopted=True,
                leftovers=one.leftovers,
                since=one.since,
            )
        for directory in {str(Path(name).parent) for name in journal.directories()}:
            if Path(directory).name.startswith("ailurus-"):
                remove_tree(Path(directory))
        if owed:
            _log.info("adopted", journal=journal.path.name, reports=len(owed))
        else:
            journal.close()
