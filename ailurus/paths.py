"""Paths and directories as people write them in site files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.url import Url
from ailurus.token_discovery import DISCOVERED


def expanded(path: str) -> str:
    """A path with `$VARIABLE` and `~` replaced."""
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111  text in, text out


CREDENTIAL = "credential:"
"""What an option begins with that names one of the site's `credentials`, instead of a path."""


def expanded_options(
    options: Mapping[str, Any], credentials: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Options of a plugin, with `$VARIABLE` and `~` replaced where a path begins, and
    `credential:NAME` by its path in `credentials`. Raises AilurusError for a NAME that is not
    there."""
    return {name: _expanded_option(name, value, credentials) for name, value in options.items()}


def _expanded_option(name: str, value: Any, credentials: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    if value[:1] in {"~", "$"}:
        return expanded(value)
    if not value.startswith(CREDENTIAL):
        return value
    if (path := credentials.get(value.removeprefix(CREDENTIAL))) is None:
        raise AilurusError(
            f"the site has no {value}", field=name, remedy="name it under `credentials`"
        )
    return path


def secret_files(options: Mapping[str, Any]) -> dict[str, str]:
    """The files that options of a plugin name as credentials: all `…_file` but that of authorities,
    and a `proxy`; not those of the edge, and not a token that is looked for."""
    return {
        name: value
        for name, value in options.items()
        if (name.endswith("_file") or name == "proxy")
        and name != "ca_file"
        and isinstance(value, str)
        and value
        and not value.startswith(CREDENTIAL)
        and not (name == "token_file" and discovers(options))
    }


def discovers(options: Mapping[str, Any]) -> bool:
    """Whether a plugin looks for its token, see `ailurus.token_discovery`."""
    return options.get("token_file") == DISCOVERED


def directory_url(text: str) -> str:
    """Where outputs go: a URL as it is, an absolute path as a `file:` URL, nothing as nothing."""
    if not text or not text.startswith(("/", "~", "$")):
        return text
    path = os.fsencode(expanded(text)).decode("utf-8", "surrogateescape")
    return Url.of_path(path).text
