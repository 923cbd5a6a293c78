"""The files that travel with the jobs of job files: read twice, once to know them and once to
upload them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import PLAIN_FILE
from ailurus.protocol.uploads import MOST_FILE_BYTES, Upload, too_large
from ailurus.regular import NotRegular, open_regular
from dispatcher.cli.exits import DATA, NO_INPUT, CommandError

_OTHERS = ("url", "size", "direct")


class UploadFiles:
    """The files that jobs name as `{upload: PATH}`, each once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Upload, int]] = {}
        self._paths: dict[str, Path] = {}

    def reader(self, base: str) -> Any:
        """What `jobs_from` calls, for a file in the directory `base`."""

        def read(inputs: Any, where: str) -> Any:
            if not isinstance(inputs, list | tuple):
                return inputs
            return [
                self._input(one, base, f"{where}[{nr}]")
                if isinstance(one, Mapping) and "upload" in one
                else one
                for nr, one in enumerate(inputs)
            ]

        return read

    def __iter__(self) -> Iterator[bytes]:
        """What is in each. Raises CommandError for one that changed since it was read first."""
        for digest, path in self._paths.items():
            contents, _ = _read(path, "")
            if sha256(contents).hexdigest() != digest:
                raise CommandError(
                    DATA,
                    "it changed while it was read",
                    field=str(path),
                    remedy="submit it when nobody writes to it any more",
                )
            yield contents

    def _input(self, entry: Mapping[str, Any], base: str, where: str) -> dict[str, Any]:
        rest = {key: value for key, value in entry.items() if key != "upload"}
        said = entry["upload"]
        field = f"{where}.upload"
        if not isinstance(said, str) or not said or "://" in said:
            raise AilurusError(
                "expected the path of a file", field=field, remedy="upload: ./script.py"
            )
        if odd := [word for word in _OTHERS if word in rest]:
            raise AilurusError(
                f"{odd[0]} says where a file is or how it is read, and this one is uploaded",
                field=f"{where}.{odd[0]}",
                remedy=f"leave out `{odd[0]}`, or `upload`",
            )
        path = Path(base, said)
        name = rest.get("name", path.name)
        if "name" not in rest and not PLAIN_FILE.fullmatch(name):
            raise AilurusError(
                f"{name!r} cannot be a file's name in the job's directory",
                field=field,
                remedy="name it otherwise there: {name: data.txt, upload: …}",
            )
        upload, size = self._upload(path, field)
        return {**rest, "name": name, "url": upload.url, "size": size}

    def _upload(self, path: Path, field: str) -> tuple[Upload, int]:
        key = os.fspath(path)
        if key not in self._known:
            contents, program = _read(path, field)
            upload = Upload(sha256(contents).hexdigest(), program=program)
            self._known[key] = upload, len(contents)
            self._paths.setdefault(upload.digest, path)
        return self._known[key]


def _read(path: Path, field: str) -> tuple[bytes, bool]:
    """What is in a file, and whether it may be executed. Raises AilurusError with the field."""
    if path.is_dir():
        raise AilurusError(
            f"{path} is a directory",
            field=field,
            remedy=f"pack it: `tar czf {path.name}.tar.gz {path.name}`, then {{upload: "
            f"./{path.name}.tar.gz, unpack: true}}",
        )
    try:
        with os.fdopen(open_regular(os.path.realpath(path)), "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_size > MOST_FILE_BYTES:
                raise too_large(path.name, found.st_size, field)
            contents = file.read(MOST_FILE_BYTES + 1)
    except NotRegular:
        raise AilurusError(f"{path} is not a regular file", field=field) from None
    except OSError as error:
        raise CommandError(
            NO_INPUT,
            f"{path}: {error.strerror or 'unreadable'}",
            field=field,
            remedy="a path beside the job file",
        ) from None
    if len(contents) > MOST_FILE_BYTES:
        raise too_large(path.name, len(contents), field)
    return contents, bool(found.st_mode & stat.S_IXUSR)
