"""Notices to systemd and sockets from it: one datagram, two variables. Without systemd all of this
does nothing. https://www.freedesktop.org/software/systemd/man/sd_notify.html"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

# The first descriptor of inherited sockets.
FIRST_FD = 3


def notify(*states: str) -> None:
    """Notify the service manager, if there is one: `notify("READY=1")`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto("\n".join(states).encode(), address)


def reloading() -> None:
    """Notify that the configuration is being read anew; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_s() -> float | None:
    """Seconds between two `WATCHDOG=1`, if the manager watches: half of its time-out."""
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    text = os.environ.get("WATCHDOG_USEC", "") if ours else ""
    return int(text) / 2_000_000 if text.isdigit() and int(text) > 0 else None


def inherited(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that were handed to this process; once, and not to its children."""
    pid, number = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not number.isdigit():
        return []
    found = [socket.socket(fileno=FIRST_FD + nr) for nr in range(int(number))]
    for one in found:
        one.set_inheritable(False)
        one.setblocking(False)
    return found


def hand_over(sockets: list[socket.socket], environment: MutableMapping[str, str]) -> None:
    """Leave these sockets to the program that takes this process's place by exec, right after."""
    # Copies, none of which has a number that they are all to get.
    kept = [os.dup(one.fileno()) for one in sockets]
    while any(fd < FIRST_FD + len(kept) for fd in kept):
        kept = [os.dup(fd) for fd in kept]
    for nr, fd in enumerate(kept):
        os.dup2(fd, FIRST_FD + nr, inheritable=True)
    environment["LISTEN_PID"], environment["LISTEN_FDS"] = str(os.getpid()), str(len(kept))
