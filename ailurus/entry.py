"""The first steps of every program: standard descriptors and UTF-8."""

from __future__ import annotations

import os
import signal
import sys


def prepare() -> None:
    """Open the standard descriptors and see to UTF-8. Nothing may be opened or started before."""
    _open_standard()
    _see_to_utf8()


def import_msgspec() -> None:
    """Import msgspec without typing_extensions, which it takes where somebody else needs that: what
    it wants of it Python's own `typing` has, and what it brings (`inspect`, `ast`) is 1.3 MB and a
    few milliseconds of each process that begins like this."""
    late = "typing_extensions"
    if late in sys.modules or "msgspec" in sys.modules:
        return
    # As if it were not installed.
    sys.modules[late] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[late]


def hangup() -> set[signal.Signals]:
    """SIGHUP, to be handled like SIGTERM; nothing where the parent had it ignored (`nohup`)."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return set() if ignored else {signal.SIGHUP}


def _open_standard() -> None:
    """Open 0, 1 and 2 where a daemon closed them: else the next file or socket would get that
    number, and receive what is written to stderr."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            # Else it got the number that is missing.
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _see_to_utf8() -> None:
    """Start this program once more in Python's UTF-8 mode, if it is not in it or would be no
    different.

    Job files, messages and site files are UTF-8. In a locale as de_DE.ISO-8859-1 Python would give
    a payload's command, variables and names of files to the system in that: other bytes than were
    submitted, or none. In the locales C and POSIX Python does it by itself; frozen it is built in.
    """
    if sys.getfilesystemencoding() != "utf-8" and not getattr(sys, "frozen", False):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
