"""What the programs of Ailurus share, and what users import: `from ailurus import Client`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ailurus.wire.client import Client as Client

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Late: the types alone must not cost an HTTP library.
    if name == "Client":
        from ailurus.wire.client import Client

        return Client
    raise AttributeError(f"module 'ailurus' has no attribute {name!r}")
