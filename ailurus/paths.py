"""Paths and directories as people write them in site files."""

from __future__ import annotations

import os

from ailurus.protocol.url import Url


def expanded(path: str) -> str:
    """A path with `$VARIABLE` and `~` replaced."""
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111  text in, text out


def directory_url(text: str) -> str:
    """Where outputs go: a URL as it is, an absolute path as a `file:` URL, nothing as nothing."""
    if not text or not text.startswith(("/", "~", "$")):
        return text
    path = os.fsencode(expanded(text)).decode("utf-8", "surrogateescape")
    return Url.of_path(path).text
