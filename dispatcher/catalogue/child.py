"""The process of the catalogue: `python -m dispatcher.catalogue.child DESCRIPTOR`.

It ends with the dispatcher, whatever it is in: a thread of its own waits for the end of the socket.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading

from ailurus import logs
from ailurus.protocol.errors import AilurusError
from dispatcher.catalogue import made, messages
from dispatcher.ports import Catalogue, CatalogueUnavailable

_log = logs.Log("catalogue")


def main() -> None:
    """Answer requests until the dispatcher is gone."""
    logs.configure(None, level="info")
    line = socket.socket(fileno=int(sys.argv[1]))
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, asked), daemon=True).start()
    catalogue: Catalogue | None = None
    begin = messages.decode_begin(asked.get())
    while True:
        request = messages.decode_request(asked.get())
        try:
            catalogue = catalogue or made.maker(begin.kind, begin.options)()
            answer = messages.answer(catalogue, request)
        except CatalogueUnavailable as away:
            answer = messages.NotNow(reason=away.reason, remedy=away.remedy)
        except AilurusError as error:
            answer = messages.NotNow(reason=error.message, remedy=error.remedy)
        except Exception as error:  # noqa: BLE001 -- a bug of the plugin costs one answer
            _log.error("catalogue_failed", trace=True, request=type(request).__name__)
            answer = messages.NotNow(
                reason=f"the plugin {begin.kind!r} failed: {error!r}"[:500],
                remedy="the dispatcher's log has the traceback (`catalogue_failed`)",
            )
        line.sendall(messages.encode(answer) + b"\n")


def _listen(line: socket.socket, asked: queue.SimpleQueue[bytes]) -> None:
    with line.makefile("rb") as lines:
        for one in lines:
            asked.put(one)
    os._exit(0)


if __name__ == "__main__":
    main()
