"""Real storages, each with the mover that reaches it in a process of its own, as a pilot has it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.token_discovery import DISCOVERED
from pilot.ports import Moved, NotMoved, ToGet, ToPut
from pilot.process.batch import Watch
from pilot.process.children import Launch, mover_command, mover_environment
from pilot.process.mover_pool import MoverPool
from tests.rig import proc
from tests.rig.lane import Lane
from tests.rig.services import Service

LIBRARIES = {"gfal2": "gfal2", "s3": "botocore", "xrootd": "XRootD.client"}
FILE_S = 5.0
Progress = Callable[[int, int], None]


def nothing(key: int, moved_bytes: int) -> None:
    pass


def watch(progress: Progress = nothing, file_s: float = FILE_S) -> Watch:
    return Watch(
        check=lambda: None,
        wakeup=threading.Event(),
        time_s=lambda size: file_s,
        progress=progress,
    )


def failed(end: Moved | NotMoved) -> tuple[Code, bool]:
    """What is told of a file that did not arrive; there is a remedy if it can be tried again."""
    assert isinstance(end, NotMoved), end
    assert end.remedy or not end.transient, end
    return Code(end.code), end.transient


class Site:
    """A storage of one service, and the pilot's pools of movers for it."""

    def __init__(self, name: str, service: Service, spawner: Any, directory: Path) -> None:
        self.service, self.directory, self.name = service, directory, name
        self.own = directory.name.replace("_", "-")
        """What names of this test's files begin with."""
        self._launch = Launch(
            spawner=spawner,
            directory=directory / "movers",
            command=mover_command(),
            environment=mover_environment(os.environ),
        )
        self._pools: list[MoverPool] = []
        self.got = directory / "got"
        self.pool = self.made()

    def made(self, launch: Launch | None = None, **options: object) -> MoverPool:
        facts = self.service.facts
        usual: dict[str, object] = {"stall": 30}
        if self.name == "s3":
            usual |= {"endpoint": facts["url"], "keys_file": self.keys(facts)}
        else:
            usual |= {"ca": facts["ca_file"], "ca_dir": facts["ca_dir"]}
        self._pools.append(MoverPool(self.name, {**usual, **options}, launch or self._launch))
        return self._pools[-1]

    def keys(self, account: dict[str, str]) -> str:
        """The file with the keys of a user of S3."""
        path = self.directory / f"keys-{account['access_key']}"
        path.touch(0o600)
        path.write_text(
            f"[default]\naws_access_key_id={account['access_key']}\n"
            f"aws_secret_access_key={account['secret_key']}\n",
            encoding="utf-8",
        )
        return str(path)

    def with_token(self, scope: str, lifetime_s: int = 600) -> MoverPool:
        return self.made(token_file=str(self.given(scope, "bearer", lifetime_s)))

    def given(self, scope: str, name: str, lifetime_s: int = 600) -> Path:
        """Give the site a token in a file of that name."""
        path = self.directory / name
        path.touch(0o600)
        path.write_text(self.service.ask("token", scope, lifetime_s), encoding="utf-8")
        return path

    def with_discovery(self, named: Path | None, runtime: Path) -> MoverPool:
        """A pool whose movers look for their token."""
        variables = {"XDG_RUNTIME_DIR": str(runtime)}
        if named is not None:
            variables["BEARER_TOKEN_FILE"] = str(named)
        launch = replace(self._launch, environment={**self._launch.environment, **variables})
        return self.made(launch, token_file=DISCOVERED)

    def kill_movers(self) -> None:
        """kill -9."""
        own = str(self.directory / "movers").encode()
        for pid in proc.processes():
            if own in proc.words(pid) and b"pilot.process.mover" in proc.words(pid):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

    # -- where files are ---------------------------------------------------------------------------

    @property
    def base(self) -> str:
        facts = self.service.facts
        if self.name == "s3":
            return f"s3://{facts['bucket']}"
        return str(facts["root" if self.name == "xrootd" else "davs"])

    def url(self, name: str) -> str:
        return f"{self.base}/{self.own}.{name}"

    def token_url(self, name: str) -> str:
        scheme = "root" if self.name == "xrootd" else "davs"
        return f"{self.service.facts['token'][scheme]}/{self.own}.{name}"

    def path(self, name: str) -> Path:
        """Where it lies, in a storage that has a directory of this machine."""
        return Path(self.service.facts["store"], f"{self.own}.{name}")

    def stored(self, name: str, size: int) -> str:
        """Have a file of zeros there; its URL."""
        if self.name == "s3":
            answer = self.put(self.url(name), size, file_s=60)
            assert isinstance(answer, Moved), answer
            return self.url(name)
        with self.path(name).open("wb") as file:
            file.truncate(size)
        self.path(name).chmod(0o644)
        return self.url(name)

    def by(self, lane: Lane) -> tuple[MoverPool, Callable[[str], str]]:
        """A pool and what makes URLs of it, that go by a lane."""
        if self.name == "s3":
            endpoint = lane.url(f"{self.service.facts['url']}/").rstrip("/")
            return self.made(endpoint=endpoint), lambda url: url
        return self.pool, lane.url

    def lane(self, bytes_s: float) -> Lane:
        there = self.service.facts["url"] if self.name == "s3" else self.base
        return Lane(there, bytes_s)

    # -- transfers ---------------------------------------------------------------------------------

    def get(
        self,
        url: str,
        pool: MoverPool | None = None,
        progress: Progress = nothing,
        file_s: float = FILE_S,
    ) -> Moved | NotMoved:
        file = ToGet(key=1, url=url, path=str(self.got))
        return (pool or self.pool).get([file], watch(progress, file_s))[1]

    def put(
        self, url: str, size: int, pool: MoverPool | None = None, file_s: float = FILE_S
    ) -> Moved | NotMoved:
        path = self.directory / "sent"
        with path.open("wb") as file:
            file.truncate(size)
        with path.open("rb") as source:
            order = ToPut(key=1, url=url, path=str(path), size=size)
            files = {1: source.fileno()}
            return (pool or self.pool).put([order], files, watch(file_s=file_s))[1]
