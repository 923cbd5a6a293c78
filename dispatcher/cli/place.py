"""Where a dispatcher keeps its keys: beside its database, or where it is told."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct


class Place(Struct, frozen=True):
    """The files of one dispatcher. `store` is None where the queue is on a server."""

    store: Path | None
    keys: Path
    admin_token: Path


def arguments(parser: ArgumentParser) -> None:
    """What names the store and the keys."""
    parser.add_argument(
        "--store",
        required=True,
        metavar="URL",
        help="sqlite:///FILE, or postgresql://USER@HOST/DATABASE, which several dispatchers may share",
    )
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="DIR",
        help="where its keys are, the same for all on one store; default: beside FILE, or here",
    )


def place_of(store_url: str, folder: Path | None = None) -> Place:
    """`queue.db` has `queue.keys.json` and `queue.admin-token` beside it, or in `folder`."""
    from dispatcher.store import path_of

    path = path_of(store_url)
    if path is None:
        beside = (folder or Path()).absolute() / (urlsplit(store_url).path.strip("/") or "ailurus")
    else:
        path = path.absolute()
        beside = path if folder is None else folder.absolute() / path.name
    keys = beside.with_suffix(".keys.json")
    return Place(path, keys, keys.with_suffix("").with_suffix(".admin-token"))
