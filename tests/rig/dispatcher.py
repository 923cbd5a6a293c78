"""A dispatcher of one's own, as most tests of programs need one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from ailurus.protocol import messages as m
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile

BIN = Path(sys.executable).parent


class Dispatcher:
    """A dispatcher that listens on loopback, in a process of its own, on the store in a
    directory."""

    def __init__(self, directory: Path, *options: object, listen: str = "127.0.0.1:0") -> None:
        """Start it; make the store first where there is none. `options` are of `serve`."""
        self.directory = directory
        self.options = [str(one) for one in options]
        self.store = f"sqlite:///{directory}/queue.db"
        self.token_file = directory / "queue.admin-token"
        if not self.token_file.exists():
            init: list[str | Path] = [BIN / "dispatcher", "init", "--store", self.store]
            subprocess.run(init, check=True, capture_output=True)
        self._listen = listen
        self.start()

    def start(self) -> None:
        """Serve: on the same port as before, if there was one."""
        command: list[str | Path] = [BIN / "dispatcher", "serve", *self.options]
        command += ["--store", self.store, "--listen", self._listen]
        with (self.directory / "serve.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline().strip() for _ in range(2)]
        if not self.said[0]:
            raise RuntimeError((self.directory / "serve.log").read_text()[-3000:])
        self.url = self.said[0].removeprefix("listening on ")
        self._listen = self.url.partition("://")[2]

    @property
    def client(self) -> Client:
        """One with all rights."""
        return Client(self.url, TokenFile(self.token_file))

    def token(self, subject: str, *scopes: str) -> str:
        asked = m.NewToken(subject=subject, scopes=scopes)
        return self.client.call("token", asked, answer=m.Token).token

    def stop(self) -> int:
        """End it in order, if it runs; its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code
