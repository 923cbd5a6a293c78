"""gfal2 for a process of another Python: a program that does one call after the other.

It reads a call as a line of JSON and answers with lines, of which the last has `value` or `error`.
It runs by whatever Python has gfal2's module, 3.6 too, so it imports nothing of ours.
"""

import errno
import json
import os
import sys
from typing import Any

import gfal2  # type: ignore[import-not-found]

OUT = os.fdopen(os.dup(1), "w", encoding="ascii")
# What libraries print is no answer.
os.dup2(2, 1)


def say(answer: Any) -> None:
    OUT.write(json.dumps(answer) + "\n")
    OUT.flush()


def filecopy(context: Any, source: str, target: str, options: Any) -> None:
    parameters = context.transfer_parameters()
    for name, value in options.items():
        setattr(parameters, name, value)
    # All told, 5 s apart: source, target, average, current, bytes, seconds.
    parameters.monitor_callback = lambda *seen: say({"bytes": int(seen[4])})
    parameters.event_callback = lambda event: say({"stage": str(event.stage)})
    context.filecopy(parameters, source, target)


def stat(context: Any, url: str) -> Any:
    found = context.stat(url)
    return found.st_mode, found.st_size


def entries(context: Any, url: str, most: int) -> Any:
    directory = context.opendir(url)
    found: Any = []
    while len(found) < most:
        entry, about = directory.readpp()
        if entry is None:
            break
        found.append((entry.d_name, about.st_mode, about.st_size))
    return found


CALLS: Any = {
    "filecopy": filecopy,
    "stat": stat,
    "entries": entries,
    "checksum": lambda context, url, kind: context.checksum(url, kind),
    "unlink": lambda context, url: context.unlink(url),
    "token": lambda context, server, token: gfal2.cred_set(
        context, server, gfal2.cred_new("BEARER", token)
    ),
}


def main() -> None:
    context = gfal2.creat_context()
    for line in sys.stdin:
        what, arguments = json.loads(line)
        try:
            say({"value": CALLS[what](context, *arguments)})
        except gfal2.GError as error:
            say({"error": [error.code, error.message]})
        except UnicodeError as error:
            say({"error": [errno.EILSEQ, type(error).__name__]})


if __name__ == "__main__":
    main()
