"""What becomes of tasks that ended long ago."""

from __future__ import annotations

from dispatcher.ports import Tx
from dispatcher.rules import item_pools

# Rows of one commit.
UNITS, SLICES = 1000, 5


def tidy(tx: Tx, *, before: float) -> bool:
    """Forget some of a task that ended before a time. Whether there may be more."""
    row = tx.one("task.old", before=before)
    if row is None:
        return False
    (task_id,) = row
    # From here on nobody sees it, nor tries again what is left of it.
    tx.run("step.drop", task_id=task_id)
    if tx.all("unit.trim", task_id=task_id, most=UNITS):
        return True
    if tx.all("task_slice.trim", task_id=task_id, most=SLICES):
        return True
    if tx.all("task_file.trim", task_id=task_id, most=UNITS):
        return True
    tx.run("pool.leave", **item_pools.pools_of(task_id))
    tx.run("task.drop", task_id=task_id)
    return True
