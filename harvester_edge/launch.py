"""How a worker is started: its pilot's command line, and the order to the batch system."""

from __future__ import annotations

from pathlib import Path

from ailurus.paths import expanded
from ailurus.protocol.units import duration_s
from harvester_edge.client import trust
from harvester_edge.connect import access
from harvester_edge.ports import Batch, Order
from harvester_edge.relay import keys
from harvester_edge.render import Launch, script, spool_in
from harvester_edge.shared_files import pilot_program, site_file
from harvester_edge.site import Site


def launch(site: Site, slot: str, tag: str) -> Launch:
    """How the pilots of an order of that slot are started.

    Raises AilurusError or OSError if there is no pilot to start, or no key of the relay.
    """
    shape = site.slots[slot]
    return Launch(
        program=pilot_program(site),
        url=_pilot_url(site),
        queue=shape.queue,
        slot=slot,
        site_file=site_file(site),
        work=expanded(site.paths.work),
        directory=site.shared / "workers" / tag,
        head=shape.pilots == "head",
        lifetime_s=shape.walltime_s,
        idle_exit_s=int(duration_s(site.scaling.idle_exit)),
        trust=trust_options(site) if site.network == "direct" else _relay_pin(site),
        access=access(site),
    )


def order_of(
    site: Site, how: Launch, count: int, batch: Batch, exclude: tuple[str, ...] = ()
) -> Order:
    """The order for `count` workers."""
    slot = site.slots[how.slot]
    room = slot.room()
    return Order(
        script=script(how, batch.index, batch.batch_id),
        directory=how.directory,
        count=count,
        nodes=slot.nodes,
        head=slot.pilots == "head",
        cores=room.cores,
        memory_mb=room.memory_mb,
        disk_mb=room.disk_mb,
        gpus=room.gpus,
        walltime_s=slot.walltime_s,
        wait_s=int(duration_s(site.policy.max_queue_age)),
        exclude_nodes=exclude,
        extra=dict(slot.extra),
    )


def _pilot_url(site: Site) -> str:
    """What pilots connect to: the dispatcher, or the relay."""
    if site.network == "spool":
        return f"spool://{site.relay_spool}"
    if site.network == "relay" and site.relay is not None and site.relay.url is not None:
        return site.relay.url
    return site.dispatcher.pilot_url or site.dispatcher.url


def _relay_pin(site: Site) -> tuple[str, ...]:
    return ("--pin", keys.pin(site.relay_state)) if site.network == "relay" else ()


def trust_options(site: Site) -> tuple[str, ...]:
    """Options by which a pilot knows its dispatcher."""
    by = trust(site)
    return (*(("--ca", by.ca) if by.ca else ()), *(("--pin", by.pin) if by.pin else ()))


def spool_directory(site: Site) -> Path:
    """Where pilots of this machine keep unsent reports."""
    return Path(spool_in(expanded(site.paths.work)))
