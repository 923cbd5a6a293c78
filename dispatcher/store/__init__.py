"""Where the queue is kept. Statements stand by name in `queries.sql`, tables in `migrations/`."""

from __future__ import annotations

from pathlib import Path

from ailurus.protocol.errors import AilurusError
from dispatcher.ports import Store

PREFIX = "sqlite:///"


def path_of(url: str) -> Path:
    """The database file of a store's URL, `sqlite:///FILE`."""
    if not url.startswith(PREFIX) or url == PREFIX:
        raise AilurusError(f"{url!r} is not a store", field="--store", remedy="sqlite:///FILE")
    return Path(url.removeprefix(PREFIX))


def open_store(url: str) -> Store:
    """The store of a URL, its tables made or brought up to date. Raises AilurusError."""
    from dispatcher.store.sqlite import Sqlite

    return Sqlite(path_of(url))
