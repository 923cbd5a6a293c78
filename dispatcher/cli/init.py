"""`dispatcher init`: what a dispatcher needs before it can serve. Again, it changes nothing."""

from __future__ import annotations

import asyncio
from argparse import Namespace

from ailurus.output import Output
from ailurus.protocol.shown import shown
from dispatcher.cli.place import arguments, place_of

__all__ = ["arguments", "main"]
YEAR_S = 365 * 86400


def main(args: Namespace, out: Output) -> int:
    """Make the store, its keys and an admin token; keep what is there."""
    import msgspec

    from ailurus.protocol.api import Scope
    from dispatcher.auth import keys
    from dispatcher.auth.tokens import Issuer
    from dispatcher.store import open_store

    place = place_of(args.store, args.keys)
    place.keys.parent.mkdir(parents=True, exist_ok=True)
    if place.store is None or not place.store.exists():
        asyncio.run(_made(open_store, args.store))
    if not place.keys.exists():
        keys.keep(place.keys, msgspec.json.encode(keys.made()))
    issuer = Issuer(keys.read(place.keys))
    if not place.admin_token.exists():
        token = issuer.mint("admin", [Scope.ADMIN], YEAR_S).token
        keys.keep(place.admin_token, token.encode() + b"\n")
    out.pairs(
        [
            ("store", place.store or shown(args.store)),
            ("keys", place.keys),
            ("admin token", place.admin_token),
        ]
    )
    where = f" --keys {args.keys}" if args.keys else ""
    out.line(f"next: dispatcher serve --store {shown(args.store)}{where}")
    return 0


async def _made(open_store, url: str) -> None:  # type: ignore[no-untyped-def]
    await open_store(url).close()
