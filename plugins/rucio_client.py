"""Clients of Rucio, for the mover and the catalogue, made of one file of settings.

`rucio` is imported inside functions alone: only processes that can be lost come to call them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ailurus.regular import settings_in

_Path = Annotated[str, Meta(min_length=1, max_length=4000)]

NEAR = ("file", "root", "davs", "https")
FAR = ("root", "davs", "https", "file")
MOST_COUNTED = 1 << 49
"""Bytes of a file, or events in it: what a store can still add up for all that a task has staged."""


class ClientOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Rucio is reached."""

    config: _Path
    """A `rucio.cfg`: servers, and how the account shows who it is."""
    account: Annotated[str, Meta(max_length=25)] = ""
    """Instead of the one in `config`."""
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    """Of one request."""


class RseProtocols(Struct, frozen=True, kw_only=True):
    """The schemes by which storage is read and written, the best first; no other is used. Empty:
    those that are usual."""

    read_lan: tuple[str, ...] = ()
    read_wan: tuple[str, ...] = ()
    write_lan: tuple[str, ...] = ()
    write_wan: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[str, ...]:
        """To read the site's own storage."""
        return self.read_lan or NEAR

    @property
    def other(self) -> tuple[str, ...]:
        """To read all other storage."""
        return self.read_wan or FAR

    @property
    def outputs(self) -> tuple[str, ...]:
        """To write to any storage."""
        return self.write_lan or self.write_wan or NEAR


def client_of(options: ClientOptions) -> Any:
    """A client, which has shown who it is. Raises what Rucio raises, and NotRegular for a `config`
    that is no file of settings."""
    # Of one that cannot be opened Rucio speaks itself.
    with suppress(OSError):
        settings_in(Path(options.config))
    # Without the second the client looks for parts of a server.
    os.environ["RUCIO_CONFIG"] = options.config
    os.environ["RUCIO_CLIENT_MODE"] = "1"
    from rucio.client import Client

    return Client(account=options.account or None, timeout=options.timeout_s)


def counted(value: object) -> int | None:
    """A number of bytes or events, as Rucio gives one; None for what none can be: whoever writes to
    the catalogue may have written anything."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_COUNTED:
        return value
    return None
