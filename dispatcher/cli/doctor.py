"""`dispatcher doctor`: looks, changes nothing, and says what to do. Exit code 78 if something is
wrong."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import stat
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from ailurus.output import Output
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.messages import Answer
from dispatcher.cli import place
from dispatcher.cli.exits import CONFIGURATION
from dispatcher.cli.place import Place

DAY_S = 86_400.0
# A certificate or token that ends within is told.
SOON_S = 21 * DAY_S
# Bytes of disk below which it is told; a tenth of that is wrong.
FREE = 1024**3
# A database above is not read through here.
LARGE = 2 * 1024**3
# STA_UNSYNC of adjtimex(2).
_UNSYNCHRONISED = 0x0040


class Finding(Struct, frozen=True):
    """`state`: ok, warning or wrong."""

    check: str
    state: str
    says: str
    remedy: str = ""


class Findings(Answer):
    findings: tuple[Finding, ...]


def arguments(parser: ArgumentParser) -> None:
    place.arguments(parser)
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="as given to serve")
    parser.add_argument("--tls-key", type=Path, metavar="FILE")
    parser.add_argument("--url", help="the dispatcher's address (AILURUS_URL); default: not asked")
    parser.add_argument("--ca", metavar="FILE", help="who may sign its certificate (AILURUS_CA)")
    parser.add_argument("--pin", metavar="SHA256", help="of its certificate (AILURUS_PIN)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def main(args: Namespace, out: Output) -> int:
    """Look at everything; one that is wrong hides none of the others."""
    found = tuple(_all(args))
    if out.as_json:
        out.document(Findings(findings=found))
    else:
        out.table(("check", "is", "", "do"), [(f.check, f.state, f.says, f.remedy) for f in found])
    return CONFIGURATION if any(f.state == "wrong" for f in found) else 0


def _all(args: Namespace) -> Iterator[Finding]:
    there = place.place_of(args.store, args.keys)
    now = time.time()
    yield from keys(there, now)
    if there.store is None:
        yield from postgres(args.store)
    else:
        yield from sqlite(there.store, now)
    yield disk((there.store or there.keys).parent)
    yield clock()
    if args.tls_cert:
        yield certificate(args.tls_cert, args.tls_key, now)
    url = args.url or os.environ.get("AILURUS_URL")
    if url:
        yield answers(url, args, now)


def keys(there: Place, now: float) -> Iterator[Finding]:
    """Whether the keys are there, private and good, and how long the admin token lives."""
    from dispatcher.auth import keys as kept
    from dispatcher.auth.tokens import Issuer

    try:
        issuer = Issuer(kept.read(there.keys))
    except (AilurusError, ValueError, TypeError) as error:
        remedy = getattr(error, "remedy", "") or "restore them from a back-up"
        yield Finding("keys", "wrong", str(getattr(error, "message", error)), remedy)
        return
    if (
        there.keys.parent.stat().st_mode & stat.S_IWOTH
        and not there.keys.parent.stat().st_mode & stat.S_ISVTX
    ):
        yield Finding(
            "keys", "wrong", f"anybody may replace them in {there.keys.parent}", "chmod o-w"
        )
    else:
        yield Finding("keys", "ok", f"{there.keys}, only yours to read")
    if not there.admin_token.exists():
        return
    if there.admin_token.stat().st_mode & 0o077:
        yield Finding(
            "admin token",
            "wrong",
            "others can read it",
            f"chmod 600 {there.admin_token}, and revoke it",
        )
        return
    try:
        left = issuer.caller(there.admin_token.read_text("utf-8").strip()).expires - now
    except Exception as error:  # noqa: BLE001 -- whatever it is, the token is no good
        yield Finding(
            "admin token",
            "warning",
            f"it is not good: {error}",
            f"rm {there.admin_token}; dispatcher init",
        )
        return
    yield _ends("admin token", left, f"rm {there.admin_token}; dispatcher init")


def sqlite(path: Path, now: float) -> Iterator[Finding]:
    """The file is a store, whole, and of this version; its newest event is not of tomorrow."""
    if not path.exists():
        yield Finding("store", "wrong", f"there is no {path}", "dispatcher init, or restore")
        return
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as store:
            size = path.stat().st_size
            whole = "ok" if size > LARGE else store.execute("pragma quick_check(1)").fetchone()[0]
            if whole != "ok":
                yield Finding("store", "wrong", f"it is damaged: {whole}", "restore a back-up")
                return
            read = "" if size <= LARGE else ", too large to be read through here"
            yield Finding("store", "ok", f"{size / 1e6:.1f} MB{read}")
            yield migrations(store.execute("select number, digest, name from migration").fetchall())
            last = store.execute("select max(at) from event").fetchone()[0] or 0.0
    except sqlite3.Error as error:
        yield Finding("store", "wrong", f"it cannot be read: {error}", "is it a store, and yours?")
        return
    if last > now + 60:
        says = f"{last - now:.0f} s ahead of the clock"
        yield Finding("newest event", "wrong", says, "set the clock; leases do not go by it")


def postgres(url: str) -> Iterator[Finding]:
    """The server answers, and holds a store of this version."""
    import psycopg

    from dispatcher.ports import Unavailable
    from dispatcher.store.postgres import check_sessions

    try:
        with psycopg.connect(url, connect_timeout=10) as store:
            version = store.info.server_version // 10_000
            yield Finding("store", "ok", f"PostgreSQL {version} answers")
            store.autocommit = True
            check_sessions(url, store)
            rows = store.execute("select number, digest, name from migration").fetchall()
            yield migrations(rows)
    except AilurusError as error:
        yield Finding("store", "wrong", error.message, error.remedy)
    except (psycopg.Error, Unavailable) as error:
        yield Finding("store", "wrong", str(error).strip(), "does it run; did `dispatcher init`?")


def migrations(rows: list[Any]) -> Finding:
    """Whether the tables are those of this version."""
    from ailurus.migrations import Unfit
    from dispatcher.store.schema import check

    done = {number: digest for number, digest, _ in rows}
    names = {number: name for number, _, name in rows}
    try:
        missing = check(done, names)
    except Unfit as unfit:
        return Finding("migrations", "wrong", str(unfit), unfit.remedy)
    if missing:
        named = ", ".join(step.name for step in missing)
        return Finding("migrations", "warning", f"still to do: {named}", "back up; serve does them")
    return Finding("migrations", "ok", f"all {len(done)} are applied")


def disk(folder: Path) -> Finding:
    """Whether there is room to write."""
    use = shutil.disk_usage(folder)
    state = "ok" if use.free > FREE else "warning" if use.free > FREE / 10 else "wrong"
    remedy = "" if state == "ok" else "make room: without it nothing is accepted"
    says = f"{use.free / 1e9:.1f} GB of {use.total / 1e9:.0f} free at {folder}"
    return Finding("disk", state, says, remedy)


def clock() -> Finding:
    """Whether somebody keeps the clock: tokens are good by it. Leases go by another that never
    jumps."""

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_byte * 256),
        )

    seen = Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(seen)) < 0:
        return Finding("clock", "ok", "the kernel does not say who keeps it")
    if seen.status & _UNSYNCHRONISED:
        remedy = "chrony or systemd-timesyncd, on the host"
        return Finding("clock", "warning", "nothing keeps it synchronised", remedy)
    return Finding("clock", "ok", f"synchronised, within {seen.maxerror / 1e6:.3f} s")


def certificate(path: Path, key: Path | None, now: float) -> Finding:
    """How long it is good, and that its key is its own and private."""
    import ssl

    from cryptography import x509

    try:
        if key is not None and key.stat().st_mode & 0o077:
            return Finding("certificate", "wrong", "others can read its key", f"chmod 600 {key}")
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(path, key)
        first = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError) as error:
        return Finding("certificate", "wrong", str(error), "a chain and its key, in PEM")
    left = first.not_valid_after_utc.timestamp() - now
    return _ends("certificate", left, "renew it, then kill -HUP the dispatcher")


def answers(url: str, args: Namespace, now: float) -> Finding:
    """Whether it is ready, asked as any client asks."""
    from ailurus import fetch
    from ailurus.wire.credentials import Trust

    remedy = "dispatcher serve; its log says more"
    try:
        trust = Trust.of_options(args.ca, args.pin, os.environ)
        with fetch.session(ca=trust.ca, pin=trust.pin) as session:
            status, body = fetch.get(session, f"{url.rstrip('/')}/readyz", timeout_s=10.0)
    except AilurusError as error:
        return Finding("address", "wrong", error.message, remedy)
    if status != 200:
        return Finding("address", "wrong", f"{url} is not ready: {body[:200]!r}", remedy)
    return Finding("address", "ok", f"{url} is ready")


def _ends(what: str, left: float, remedy: str) -> Finding:
    days = f"{left / DAY_S:.0f} days"
    if left <= 0:
        return Finding(what, "wrong", "it has expired", remedy)
    if left < SOON_S:
        return Finding(what, "warning", f"it expires in {days}", remedy)
    return Finding(what, "ok", f"good for {days}")
