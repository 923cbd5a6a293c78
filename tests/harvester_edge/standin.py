"""A dispatcher at the wire, and a pilot of five shell lines: for tests that kill edges by the
dozen.

The pilot leaves a file `INTENT.INDEX.PID` in the ledger when it begins, which is its registration.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Phase

PILOT = """#!/bin/sh
token=$(cat "$AILURUS_BOOTSTRAP_FILE") && rm "$AILURUS_BOOTSTRAP_FILE" || exit 1
: > "$(dirname "$0")/ledger/$token.$$"
exec sleep 300
"""


class Standin:
    """`jobs` one-core jobs wait; each registered pilot has one of them."""

    def __init__(self, root: Path, jobs: int) -> None:
        self.ledger = root / "ledger"
        self.ledger.mkdir()
        self.pilot = root / "pilot"
        self.pilot.write_text(PILOT)
        self.pilot.chmod(0o755)
        self.jobs = jobs
        self.owner = ""
        standin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = standin.answer(self.path.rsplit("/", 1)[1], body)
                data = msgspec.json.encode(answer)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for _, _, pid in self.begun():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def begun(self) -> list[tuple[str, int, int]]:
        """All pilots that ever began: intent, index, pid."""
        parts = [one.name.split(".") for one in self.ledger.iterdir()]
        return [(intent, int(index), int(pid)) for intent, index, pid in parts]

    def answer(self, route: str, body: bytes) -> tuple[int, Any]:
        if route == "hello":
            hello = msgspec.json.decode(body, type=m.Hello)
            if self.owner not in ("", hello.instance):
                problem = m.Problem(title="another edge", status=409, remedy="stop that one")
                return 409, problem
            self.owner = hello.instance
            return 200, m.Welcome(epoch=1, lease_s=30)
        if route == "demand":
            return 200, self.demand()
        if route == "intent":
            new = msgspec.json.decode(body, type=m.NewIntent)
            return 200, m.Bootstraps(tokens=tuple(f"{new.intent}.{n}" for n in range(new.count)))
        return 200, m.Done()

    def demand(self) -> m.Demand:
        begun = self.begun()
        rows = tuple(
            m.WorkerRow(
                worker_id=number, site="demo", queue="demo", host="here", phase=Phase.ACTIVE,
                registered=time.time(), last_heard=time.time(), room=Room(cores=0),
                total=Room(cores=1, memory_mb=4000, disk_mb=10_000), intent=intent, index=index,
            )
            for number, (intent, index, _) in enumerate(begun, start=1)
        )  # fmt: skip
        waiting = max(0, self.jobs - len(begun))
        shape = m.ShapeDemand(queue="demo", shape=Shape(), jobs=waiting)
        return m.Demand(shapes=(shape,) if waiting else (), workers=rows)
