"""A PostgreSQL on a disk of its own, which is filled and freed while it serves. Needs root."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX
from tests.rig.programs import Postgres, Rig, null_job
from tests.rig.waiting import until

SIZE_MB = 320
SETTINGS = ("max_wal_size=64MB", "min_wal_size=32MB")
FULL_S = 2.0  # asked for so long, once it is full
PAUSE_S = 0.1
REFUSED = 503
TEXT = "full"


@contextlib.contextmanager
def mounted() -> Iterator[Path]:
    """A small disk, empty."""
    place = Path(tempfile.mkdtemp(prefix="ailurus-disk-"))
    options = f"size={SIZE_MB}m,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def fill(place: Path) -> None:
    """Use up what is left of a disk."""
    size = 1 << 20
    with (place / "ballast").open("ab", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 16


class FullDisk:
    """Fills the disk of a server under load, tells what the dispatchers answer, and frees it
    again."""

    def __init__(self, place: Path, chance: random.Random) -> None:
        self._place = place
        self._chance = chance
        self._asked: list[m.Submit] = []
        self.answers: Counter[int] = Counter()  # by status, while the disk was full
        self.wrong: list[str] = []
        self.ended = 0  # how often the server had ended for want of room for its log
        self._times = 0

    def happen(self, rig: Rig, server: Postgres) -> None:
        """Once: in turn until tables cannot grow, and until the server's log cannot, which ends
        it."""
        self._times += 1
        fill(self._place)
        if self._times % 2 == 0:
            self._no_log(server)
        ends = time.monotonic() + FULL_S
        while time.monotonic() < ends:
            self._ask(rig)
        with contextlib.suppress(RuntimeError):
            self.ended += server.ask("running") == "no"
        (self._place / "ballast").unlink()
        until(lambda: self._up(server), 60, "PostgreSQL serves again once there is room", 0.2)

    def _ask(self, rig: Rig) -> None:
        """A submission: acknowledged, or refused so that its sender knows to come back."""
        nr = len(self._asked)
        pad = {"PAD": "".join(f"{self._chance.getrandbits(32):x}" for _ in range(10_000))}
        command = f"printf '{TEXT}' > out.txt"
        jobs = tuple(
            null_job(
                nr,
                name=f"full-{nr}-{one}",
                command=command,
                outputs=[{"name": "out.txt"}],
                environment=pad,
            )
            for one in range(2)
        )
        ask = m.Submit(request_id=f"full-{nr}", jobs=jobs)
        self._asked.append(ask)
        headers = {"Authorization": f"Bearer {rig.admin_token.read_text().strip()}"}
        line = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=60)
        with contextlib.closing(line):
            line.request("POST", PREFIX + BY_NAME["submit"].path, msgspec.json.encode(ask), headers)
            answer = line.getresponse()
            text = answer.read()
        self.answers[answer.status] += 1
        if answer.status not in (200, REFUSED) or (
            answer.status == REFUSED and not json.loads(text).get("title")
        ):
            self.wrong.append(f"a full disk was answered {answer.status}: {text[:200]!r}")
        time.sleep(PAUSE_S)

    def jobs(self, rig: Rig) -> dict[int, bytes]:
        """What was asked for meanwhile, asked once more as a client would; what each job writes."""
        ids: list[int] = []
        for ask in self._asked:
            ids += rig.client.call("submit", ask, answer=m.Submitted).job_ids
        return dict.fromkeys(ids, TEXT.encode())

    def _no_log(self, server: Postgres) -> None:
        """Have the server begin new files of its log until there is no room for one."""
        import psycopg

        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(server.url, autocommit=True) as own,
        ):
            for _ in range(100):
                own.execute("select pg_logical_emit_message(true, 'full', repeat('x', 100000))")
                own.execute("select pg_switch_wal()")

    @staticmethod
    def _up(server: Postgres) -> bool:
        """Whether it serves; one that has ended is begun anew, as systemd would."""
        import psycopg

        try:
            with psycopg.connect(server.url, connect_timeout=5):
                return True
        except psycopg.Error:
            with contextlib.suppress(
                RuntimeError
            ):  # it is just ending: the next look finds it gone
                server.start()
            return False
