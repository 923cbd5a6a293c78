"""`harvester-edge resume`: take back `pause` and `drain`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from harvester_edge.cli.pause import show


def arguments(parser: ArgumentParser) -> None:
    pass


def main(args: Namespace, out: Output) -> int:
    """Remove the files; `policy.status` is the site file's to change."""
    from harvester_edge import lint
    from harvester_edge.status import WORDS

    site = lint.load(args.config)
    for name in WORDS:
        (site.state / name).unlink(missing_ok=True)
    if site.policy.status != "online" and not out.as_json:
        out.line(f"policy.status in {args.config} still is {site.policy.status}")
    return show(out, site.site, site.state)
