"""The one way to refuse a request, for rules, service and doors alike."""

from __future__ import annotations


class Rejected(Exception):
    """A request that is refused: becomes an RFC 9457 problem with this status."""

    def __init__(
        self,
        status: int,
        title: str,
        *,
        field: str = "",
        remedy: str = "",
        detail: str = "",
        known: bool = True,
    ) -> None:
        """`known`: False where the caller's token is of a worker that our store does not have: then
        it may be another store's, which alone can send it away."""
        super().__init__(title)
        self.status = status
        self.title = title
        self.field = field
        self.remedy = remedy
        self.detail = detail
        self.known = known
