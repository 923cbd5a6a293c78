"""What dead pilots left in a spool goes on with the pilot that finds it."""

from __future__ import annotations

from pathlib import Path

from ailurus.logs import Log
from pilot.upstream.reporter import Reporter
from pilot.upstream.spool import Journal, Spool
from pilot.workdir import remove_tree

_log = Log("pilot")


def adopt(spool: Spool, reporter: Reporter) -> list[Journal]:
    """Take over what dead pilots left: reports of their attempts, leftovers in storage, and
    directories. Their journals are the caller's, to close at its end."""
    adopted = list(spool.orphans())
    for journal in list(adopted):
        owed = journal.owed()
        for one in owed:
            reporter.owe(
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
            adopted.remove(journal)
    return adopted
