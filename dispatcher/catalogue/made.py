"""A catalogue from its kind and its options, as the operator wrote them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

import plugins
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.submission import explained
from dispatcher.ports import Catalogue


def maker(kind: str, options: Mapping[str, Any], where: str = "") -> Callable[[], Catalogue]:
    """What makes the catalogue. `where`: the file with its settings. Raises AilurusError for a kind
    that there is not, and for options that it does not have."""
    try:
        plugin = plugins.load("catalogue", kind)
    except AilurusError as error:
        field = ".".join(part for part in (where, "kind") if part)
        raise AilurusError(error.message, field=field, remedy=error.remedy) from None
    except ImportError as error:
        raise AilurusError(
            f"the catalogue plugin {kind!r} cannot be imported: {error}",
            remedy="install what it needs beside the dispatcher: `pip install ailurus[rucio]`, say",
        ) from None
    try:
        converted = msgspec.convert(options, plugin.Options)
    except msgspec.ValidationError as error:
        raise explained(error, ".".join(part for part in (where, "options") if part)) from None
    return partial(plugin, converted)
