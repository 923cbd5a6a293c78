"""`harvester-edge render`: the batch script that a worker of a slot would get. Submits nothing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import msgspec

from ailurus.output import Output


class RenderAnswer(msgspec.Struct):
    """What `render --json` prints."""

    site: str
    slot: str
    script: str


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--slot", default="", help="default: the first of the site")


def main(args: Namespace, out: Output) -> int:
    """Render and show."""
    from harvester_edge import lint
    from harvester_edge.batch import batch_class
    from harvester_edge.cli.exits import NotFound
    from harvester_edge.launch import launch
    from harvester_edge.render import script

    site = lint.load(args.config)
    slot = args.slot or next(iter(site.slots))
    if slot not in site.slots:
        raise NotFound(
            f"{site.site} has no slot {slot!r}", remedy=f"known: {', '.join(site.slots)}"
        )
    batch = batch_class(site.backend.kind)
    text = script(launch(site, slot, "INTENT"), batch.index, batch.batch_id)
    if out.as_json:
        out.document(RenderAnswer(site.site, slot, text))
    else:
        out.raw(text)
    return 0
