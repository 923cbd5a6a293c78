"""Where the queue is kept. Statements stand by name in `sql/`, tables in `migrations/`."""

from __future__ import annotations

from pathlib import Path

from ailurus.protocol.errors import AilurusError
from dispatcher.ports import Store, Unavailable

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


def path_of(url: str) -> Path | None:
    """The database file of `sqlite:///FILE`; None for a server. Raises AilurusError for what is
    neither."""
    if url.startswith(POSTGRES):
        return None
    if not url.startswith(SQLITE) or url == SQLITE:
        raise AilurusError(
            f"{url!r} is not a store",
            field="--store",
            remedy="sqlite:///FILE or postgresql://USER@HOST/DATABASE",
        )
    return Path(url.removeprefix(SQLITE))


def open_store(url: str) -> Store:
    """The store of a URL, its tables made or brought up to date. Raises AilurusError."""
    path = path_of(url)
    if path is not None:
        from dispatcher.store.sqlite import Sqlite

        return Sqlite(path)
    try:
        from dispatcher.store.postgres import Postgres
    except ImportError:
        raise AilurusError(
            "a store on PostgreSQL needs psycopg",
            field="--store",
            remedy="pip install 'ailurus[postgres]'",
        ) from None
    try:
        return Postgres(url)
    except Unavailable as error:
        raise AilurusError(
            f"cannot open the store: {error}", field="--store", remedy="does the server run?"
        ) from None
