"""What tokens allow."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a token may do. The first four are scopes of the WLCG profile; ours bind a site or a
    worker."""

    READ = "compute.read"
    CREATE = "compute.create"
    MODIFY = "compute.modify"
    CANCEL = "compute.cancel"
    # All of the above for everybody's jobs; also makes and revokes tokens.
    ADMIN = "ailurus.admin"
    # As `ailurus.edge:SITE`.
    EDGE = "ailurus.edge"
    # As `ailurus.relay:SITE`: sends what the workers of that site send.
    RELAY = "ailurus.relay"
    # What Prometheus reads, and nothing else.
    METRICS = "ailurus.metrics"
    # A pilot started by hand: may register as a worker.
    PILOT = "ailurus.pilot"
    # For one registration, bound to intent, index, epoch and deadline.
    BOOTSTRAP = "ailurus.bootstrap"
    # A registered worker, for its own jobs only.
    WORKER = "ailurus.worker"
