"""The bare stack: Starlette on uvicorn over a store with shared commits, and no rule of a queue.

`python -m benchmarks.bare.stack STORE JOBS [CHAIN KEY]` says its port and serves, over TLS with a
certificate: POST /beat with {"id": N} updates a job durably, POST /acquire hands out the best one
with its body of 3 kB. STORE is a file for SQLite, or the URL of an empty database of PostgreSQL.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable
from typing import Protocol

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.bare import store as sqlite


class Beat(msgspec.Struct):
    """A heartbeat."""

    id: int


_decode = msgspec.json.Decoder(Beat).decode


class Store(Protocol):
    """What both stores do; the answer is ready to be sent."""

    def beat(self, job_id: int) -> Awaitable[bytes]: ...
    def take(self) -> Awaitable[bytes]: ...


def store(place: str, jobs: int) -> Store:
    """The store at a place, made there."""
    if not place.startswith("postgresql://"):
        return sqlite.Batch(sqlite.make(place, jobs))
    from benchmarks.bare import postgres

    return postgres.Batch(postgres.make(place, jobs))


def application(batch: Store) -> Starlette:
    """The whole of it."""

    async def on_beat(request: Request) -> Response:
        job_id = _decode(await request.body()).id
        return Response(await batch.beat(job_id), media_type="application/json")

    async def on_acquire(request: Request) -> Response:
        return Response(await batch.take(), media_type="application/json")

    return Starlette(
        routes=[
            Route("/beat", on_beat, methods=["POST"]),
            Route("/acquire", on_acquire, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            application(store(sys.argv[1], int(sys.argv[2]))),
            http="httptools",
            loop="uvloop",
            lifespan="off",
            access_log=False,
            log_config=None,
            ssl_certfile=sys.argv[3] if len(sys.argv) > 3 else None,
            ssl_keyfile=sys.argv[4] if len(sys.argv) > 3 else None,
        )
        uvicorn.Server(config).run(sockets=[listener])
