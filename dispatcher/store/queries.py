"""The statements of `queries.sql` and the migrations, as shipped beside this file."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from msgspec import Struct

_NAME = re.compile(r"^-- name: (\S+)\n", re.MULTILINE)


class Migration(Struct, frozen=True):
    """One step of the schema. `pre` runs before the new version serves, `post` after the old is gone."""

    number: int
    name: str
    sql: str
    digest: str


@cache
def queries() -> dict[str, str]:
    """Statement by name, with `:name` for parameters."""
    text = files("dispatcher.store").joinpath("queries.sql").read_text()
    _, *pairs = _NAME.split(text)
    return {
        name: statement.strip() for name, statement in zip(pairs[::2], pairs[1::2], strict=True)
    }


def migrations() -> list[Migration]:
    """All steps, in order."""
    folder = files("dispatcher.store").joinpath("migrations")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    texts = [(name, folder.joinpath(name).read_text()) for name in names]
    return [
        Migration(int(name[:4]), name, text, hashlib.sha256(text.encode()).hexdigest())
        for name, text in texts
    ]
