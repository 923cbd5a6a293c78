"""Finds the plugin of a site's batch system by its name."""

from __future__ import annotations

from ailurus.protocol.errors import AilurusError
from harvester_edge.ports import BatchClass
from plugins import load

REQUIRED = (
    "Options",
    "batch_id",
    "cancel",
    "find",
    "grace_s",
    "heads",
    "history",
    "index",
    "listing",
    "most_nodes",
    "poll_s",
    "settle_s",
    "submit",
    "trial",
)
"""What the edge uses of a plugin's class."""


def batch_class(kind: str) -> BatchClass:
    """The class of a batch system. Raises AilurusError if no plugin has that name, or it is
    incomplete."""
    found: BatchClass = load("batch", kind)
    if missing := [name for name in REQUIRED if not hasattr(found, name)]:
        raise AilurusError(
            f"the batch plugin {kind} lacks {', '.join(missing)}",
            remedy="inherit from harvester_edge.ports.Batch, which has the defaults",
        )
    return found
