"""JSON Schemas of our types, the same from every Python."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any


def even(schema: Any) -> Any:
    """A schema whose descriptions are without the indentation of the code that they come from:
    since Python 3.13 docstrings have none, before they have."""
    if isinstance(schema, dict):
        return {
            key: cleandoc(value) if key == "description" and isinstance(value, str) else even(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list | tuple):
        return [even(one) for one in schema]
    return schema
