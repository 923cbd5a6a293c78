"""Transfer tools as their users run them, their start included; None where one is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LONGEST_S = 120
_GFAL2 = """
import sys, time
sys.path[:0] = ["/usr/lib/python3/dist-packages"]
import gfal2
into, *urls = sys.argv[1:]
context = gfal2.creat_context()
began = time.perf_counter()
for number, url in enumerate(urls):
    options = context.transfer_parameters()
    options.set_checksum(gfal2.checksum_mode.both, "ADLER32", "")
    context.filecopy(options, url, f"file://{into}/{number}")
print(time.perf_counter() - began)
"""


def curl(url: str, into: Path, ca: str) -> float | None:
    """Without a checksum."""
    return _timed(["curl", "-fsS", "--noproxy", "*", "--cacert", ca, "-o", into / "large", url])


def rclone(base: str, name: str, into: Path, ca: str, kind: str = "http") -> float | None:
    """A file, or all of a directory, without adler32."""
    vendor = "vendor=other," if kind == "webdav" else ""
    where = f":{kind},{vendor}url='{base}/':{name}"
    return _timed(["rclone", "--config", "", "--ca-cert", ca, "copy", where, into])


def gfal_copy(url: str, into: str, ca_dir: str) -> float | None:
    """With adler32 compared."""
    python = {"GFAL_PYTHONBIN": "/usr/bin/python3", "X509_CERT_DIR": ca_dir}
    return _timed(["gfal-copy", "-f", "-K", "ADLER32", url, into], **python)


def gfal2(urls: Sequence[str], into: Path, ca: str, ca_dir: str) -> float | None:
    """All files by the API in one process, its start not counted."""
    trust = {"SSL_CERT_FILE": ca, "X509_CERT_DIR": ca_dir}
    argv = [sys.executable, "-c", _GFAL2, str(into), *urls]
    done = subprocess.run(
        argv, env={**_clean(), **trust}, capture_output=True, check=False, text=True,
        timeout=LONGEST_S,
    )  # fmt: skip
    return float(done.stdout) if done.returncode == 0 else None


def xrdcp(*words: object) -> float | None:
    """With adler32 of the copy."""
    return _timed(["xrdcp", "-s", "-f", "-C", "adler32", *words])


def _clean() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def _timed(argv: Sequence[object], **environment: str) -> float | None:
    """Seconds of a command. Raises RuntimeError with what it says where it fails."""
    words = [str(word) for word in argv]
    if shutil.which(words[0]) is None:
        return None
    began = time.perf_counter()
    done = subprocess.run(
        words, env={**_clean(), **environment}, capture_output=True, check=False,
        timeout=LONGEST_S,
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stderr.decode(errors='replace')[-1000:]}")
    return took
