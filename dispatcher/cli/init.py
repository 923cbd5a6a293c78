"""`dispatcher init`: what a dispatcher needs before it can serve. Again, it changes nothing."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli.place import place_of

YEAR_S = 365 * 86400


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--store", required=True, metavar="URL", help="sqlite:///FILE")


def main(args: Namespace, out: Output) -> int:
    """Make the store, its keys and an admin token; keep what is there."""
    import msgspec

    from ailurus.protocol.api import Scope
    from dispatcher import keys
    from dispatcher.auth import Issuer
    from dispatcher.store import open_store

    place = place_of(args.store)
    place.store.parent.mkdir(parents=True, exist_ok=True)
    if not place.store.exists():
        asyncio.run(_made(open_store, args.store))
    if not place.keys.exists():
        keys.keep(place.keys, msgspec.json.encode(keys.made()))
    issuer = Issuer(keys.read(place.keys))
    if not place.admin_token.exists():
        token = issuer.mint("admin", [Scope.ADMIN], YEAR_S).token
        keys.keep(place.admin_token, token.encode() + b"\n")
    out.facts(
        [
            ("store", place.store),
            ("keys", place.keys),
            ("admin token", place.admin_token),
        ]
    )
    out.line(f"next: dispatcher serve --store {args.store}")
    return 0


async def _made(open_store, url: str) -> None:  # type: ignore[no-untyped-def]
    await open_store(url).close()
