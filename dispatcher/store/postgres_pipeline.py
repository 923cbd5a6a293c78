"""Pipelines in which all is sent before an answer is waited for.

psycopg (3.3) sends what the socket takes at once, and then waits to read: where a commit's rows are
more than that (some 200 KB), the server waits for the rest of them, and we for its answer, for
ever. No time-out of either side ends it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

Connection = psycopg.Connection[tuple[Any, ...]]


class Pipeline:
    def __init__(self, connection: Connection, pipeline: psycopg.Pipeline) -> None:
        self._connection = connection
        self._pipeline = pipeline

    def sync(self) -> None:
        """Send all, and receive the answers to it."""
        _send_all(self._connection)
        self._pipeline.sync()


@contextlib.contextmanager
def pipeline(connection: Connection) -> Iterator[Pipeline]:
    with connection.pipeline() as ours:
        try:
            yield Pipeline(connection, ours)
        finally:
            _send_all(connection)


def _send_all(connection: Connection) -> None:
    if connection.pgconn.flush():
        connection.wait(_sending(connection))


def _sending(connection: Connection) -> PQGen[None]:
    while connection.pgconn.flush():
        # The server may wait in its turn until we take its answers.
        if (yield Wait.RW) & Ready.R:
            connection.pgconn.consume_input()
