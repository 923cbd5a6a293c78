"""A job of items for all nodes of an allocation."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence

from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL, JobState
from benchmarks.bare.pack import Task
from tests.rig.batch import QUEUE
from tests.rig.heads import CORES, Heads


def job_of(site: Heads, tasks: Sequence[Task]) -> JobSpec:
    """A job of these items, which have been uploaded."""
    items = [
        ItemSpec(command=shlex.join(task.argv), cores=task.cores, estimate_s=task.seconds or None)
        for task in tasks
    ]
    payloads = site.client.upload(secrets.token_hex(8), items)
    nodes = len(site.nodes.names)
    return JobSpec(name="items", command="true", queue=QUEUE, payloads=payloads, nodes=nodes,
                   cores=CORES, memory_mb=4000, disk_mb=10)  # fmt: skip


def finish(site: Heads, job: int) -> None:
    """Wait for the job's end. Raises RuntimeError if not all of it was well."""
    while site.client.wait([job], 60).states[job] not in FINAL:
        pass
    if site.client.show(job).row.state is not JobState.FINISHED:
        raise RuntimeError(f"a task failed: {site.client.show(job)}")


def span_s(site: Heads, job: int) -> float:
    """From the first begin of an item of at most 1,000 to the last end."""
    rows = site.client.items(job, ItemsQuery(limit=1000)).items
    return max(row.ended or 0 for row in rows) - min(row.started or 0 for row in rows)
