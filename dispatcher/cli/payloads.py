"""The payloads of jobs in job files: read twice, once to know them and once to upload them, and
never all at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.item_list import item_from, items_from
from ailurus.protocol.payloads import MOST_ITEMS, Payloads
from ailurus.regular import NotRegular, open_regular
from dispatcher.cli.exits import DATA, NO_INPUT, CommandError

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

LONGEST_LINE = 2_000_000
_decode = msgspec.json.Decoder(ItemSpec).decode
_encode = msgspec.json.Encoder().encode


class PayloadLists:
    """The lists of payloads that the jobs of some files name. A list is called by what is in it:
    the same again is not uploaded again."""

    def __init__(self) -> None:
        self._lists: dict[str, _FileOfItems | list[ItemSpec]] = {}

    def reader(self, base: str) -> Any:
        """What `jobs_from` calls, for a file in the directory `base`."""

        def read(tree: object, where: str) -> Payloads:
            if not isinstance(tree, str):
                return self._known(list(items_from(tree, where, base)), where)
            path = Path(base, tree)
            if not path.exists():
                raise AilurusError(
                    f"there is no file {path}", field=where, remedy="a name beside the job file"
                )
            return self._known(_FileOfItems(path, base), where)

        return read

    def _known(self, items: _FileOfItems | list[ItemSpec], where: str) -> Payloads:
        digest, count = sha256(), 0
        for item in items:
            digest.update(_encoded(item, count) + b"\n")
            count += 1
            if count > MOST_ITEMS:
                raise AilurusError(f"more than {MOST_ITEMS} payloads", remedy="make several jobs")
        if not count:
            raise AilurusError("no payloads", field=where, remedy="give at least one")
        name = _name(digest)
        self._lists[name] = items
        return Payloads(list=name, count=count)

    def __iter__(self) -> Iterator[tuple[str, Iterator[ItemSpec]]]:
        for name, items in self._lists.items():
            yield name, iter(items) if isinstance(items, list) else _the_same(name, items)


def _name(digest: HASH) -> str:
    return digest.hexdigest()[:40]


def _the_same(name: str, items: _FileOfItems) -> Iterator[ItemSpec]:
    """The items of a list once more. Raises CommandError, before the last of them, if they are not
    those that were read before: then no job can carry the list."""
    digest, held = sha256(), None
    for item in items:
        digest.update(_encode(item) + b"\n")
        if held is not None:
            yield held
        held = item
    if held is None or _name(digest) != name:
        raise CommandError(
            DATA,
            "it changed while it was read",
            field=str(items.path),
            remedy="submit it when nobody writes to it any more",
        )
    yield held


def _encoded(item: ItemSpec, nr: int) -> bytes:
    try:
        return _encode(item)
    except UnicodeEncodeError as error:
        raise AilurusError(
            f"{error.object[error.start]!r} is no character",
            field=f"payloads[{nr}]",
            remedy="write the character itself",
        ) from None


class _FileOfItems:
    """A file of JSON lines, an item each."""

    def __init__(self, path: Path, base: str) -> None:
        self.path, self._base = path, base

    def __iter__(self) -> Iterator[ItemSpec]:
        """Raises CommandError at the first line that is wrong."""
        name = str(self.path)
        try:
            count = 0
            # Read twice, so it must be a file.
            with os.fdopen(open_regular(os.path.realpath(self.path)), "rb") as file:
                for nr, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
                    if len(line) == LONGEST_LINE:
                        raise CommandError(
                            DATA,
                            f"a line of more than {LONGEST_LINE} bytes",
                            field=f"{name}:{nr}",
                            remedy="put what is so long into a file that the payload reads",
                        )
                    if line.strip():
                        yield self._item(line, nr, count)
                        count += 1
        except NotRegular:
            raise CommandError(
                NO_INPUT, "not a regular file", field=name, remedy="it is read twice"
            ) from None
        except OSError as error:
            raise CommandError(NO_INPUT, error.strerror or "unreadable", field=name) from None

    def _item(self, line: bytes, nr: int, number: int) -> ItemSpec:
        try:
            item = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            item = None
        # As people write it: with units, paths and numbers.
        files = item is not None and (item.inputs or item.outputs)
        if item is None or files or (item.command and item.arguments):
            item = self._written(line, nr, number)
        return item

    def _written(self, line: bytes, nr: int, number: int) -> ItemSpec:
        where = f"{self.path}:{nr}"
        try:
            return item_from(json.loads(line), "", self._base, number)
        except (ValueError, RecursionError) as error:
            raise CommandError(
                DATA, f"not a line of JSON: {error}", field=where, remedy="one object a line"
            ) from None
        except AilurusError as error:
            field = f"{where}: {error.field.lstrip('.')}".rstrip(": ")
            raise CommandError(DATA, error.message, field=field, remedy=error.remedy) from None
