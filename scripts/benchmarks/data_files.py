"""What `data` moves, where it lies meanwhile, and how rounds are taken."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bare.moves import adler32, filled
from tests.rig.ports import free_port
from tests.rig.programs import Program
from tests.rig.waiting import until

LARGE = 1 << 30
SMALL, FILES = 64 << 10, 200
# So many at least; of what is over in moments, as many as these seconds hold.
ROUNDS, MOST_ROUNDS, ROUNDS_S = 3, 12, 8.0
_NGINX = """
daemon off; pid {place}/nginx.pid; error_log {place}/nginx.error; worker_processes 2;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; keepalive_requests 100000; root {place}/served;
    client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;
    uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;
    ssl_certificate {trust}/host.pem; ssl_certificate_key {trust}/host.key;
    server {{ listen 127.0.0.1:{plain}; location / {{ autoindex on; }} }}
    server {{ listen 127.0.0.1:{secure} ssl; location / {{ autoindex on; }} }}
}}
"""


class Files:
    """One large file and many small ones, in a directory that a server may show."""

    def __init__(self, directory: Path) -> None:
        (directory / "small").mkdir(parents=True)
        self.large = filled(directory / "large", LARGE)
        self.small = [filled(directory / "small" / f"s{nr}", SMALL) for nr in range(FILES)]
        self.large_adler32 = adler32(self.large)
        self.small_adler32s = [adler32(file) for file in self.small]


@contextmanager
def place() -> Iterator[Path]:
    """A directory for all files; in memory where it has the room, or a disk would be measured."""
    memory = Path("/dev/shm")  # noqa: S108 -- a directory of our own is made in it
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 8 * LARGE
    before, tempfile.tempdir = tempfile.tempdir, str(memory) if roomy else tempfile.tempdir
    try:
        with tempfile.TemporaryDirectory(prefix="ailurus-data-") as name:
            made = Path(name)
            made.chmod(0o755)
            yield made
    finally:
        tempfile.tempdir = before


@contextmanager
def nginx(directory: Path, trust: str) -> Iterator[tuple[str, str]]:
    """Its URLs of `directory`/served, without and with TLS."""
    if shutil.which("nginx") is None:
        raise RuntimeError("there is no nginx: scripts/setup --peers, as root")
    plain, secure = free_port(), free_port()
    written = directory / "nginx.conf"
    written.write_text(
        _NGINX.format(place=directory, trust=trust, plain=plain, secure=secure), encoding="utf-8"
    )
    program = Program(["nginx", "-c", written, "-p", directory], directory / "nginx.log")
    try:
        until((directory / "nginx.pid").exists, 10, "nginx starts")
        yield f"http://localhost:{plain}", f"https://localhost:{secure}"
    finally:
        program.stop()


def best(ways: Mapping[str, Callable[[Path], float | None]], where: Path) -> dict[str, float]:
    """The least seconds of each way over some rounds, each into a new directory; those that this
    machine does not have are left out. Each round begins with another way: whoever writes after
    another waits for what that one left for the disk."""
    least: dict[str, float] = {}
    absent: set[str] = set()
    began = time.monotonic()
    for number in range(MOST_ROUNDS):
        if number >= ROUNDS and time.monotonic() - began > ROUNDS_S:
            break
        first = number % len(ways)
        for name, way in [*ways.items()][first:] + [*ways.items()][:first]:
            if name in absent:
                continue
            into = Path(tempfile.mkdtemp(dir=where))
            into.chmod(0o755)
            try:
                took = way(into)
            except (RuntimeError, OSError) as error:
                sys.stderr.write(f"bench data: {name} failed: {error}\n")
                if name in {"ours", "bare"}:
                    raise
                took = None
            finally:
                shutil.rmtree(into)
            if took is None:
                absent.add(name)
            else:
                least[name] = min(took, least.get(name, took))
    return least


def under(url: str, files: Sequence[Path]) -> list[str]:
    """The URLs of files in a directory."""
    return [f"{url}/{file.name}" for file in files]
