"""Paths and directories as people write them in site files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ailurus.protocol.url import Url


def expanded(path: str) -> str:
    """A path with `$VARIABLE` and `~` replaced."""
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111  text in, text out


def expanded_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a plugin, with `$VARIABLE` and `~` replaced where a path begins."""
    return {
        name: expanded(value) if isinstance(value, str) and value[:1] in {"~", "$"} else value
        for name, value in options.items()
    }


def secret_files(options: Mapping[str, Any]) -> dict[str, str]:
    """The files that options of a plugin name as credentials: all `…_file` but that of
    authorities."""
    return {
        name: value
        for name, value in options.items()
        if name.endswith("_file") and name != "ca_file" and isinstance(value, str) and value
    }


def directory_url(text: str) -> str:
    """Where outputs go: a URL as it is, an absolute path as a `file:` URL, nothing as nothing."""
    if not text or not text.startswith(("/", "~", "$")):
        return text
    path = os.fsencode(expanded(text)).decode("utf-8", "surrogateescape")
    return Url.of_path(path).text
