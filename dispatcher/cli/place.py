"""Where a dispatcher keeps what belongs to its store: beside the database, under its name."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class Place(Struct, frozen=True):
    """The files of one dispatcher."""

    store: Path
    keys: Path
    admin_token: Path


def place_of(store_url: str) -> Place:
    """`queue.db` has `queue.keys.json` and `queue.admin-token` beside it."""
    from dispatcher.store import path_of

    store = path_of(store_url).absolute()
    return Place(store, store.with_suffix(".keys.json"), store.with_suffix(".admin-token"))
