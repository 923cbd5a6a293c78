"""Horovod's rendezvous, run by a job's own Python: HOSTS (`q1:2,q2:2`) RANKS FILE.

Writes its port to FILE when it listens, and goes on until it is killed with its job. It is what
horovodrun does beside starting ranks by ssh.
"""

import os
import signal
import sys

from horovod.runner.common.util.hosts import (  # type: ignore[import-not-found]
    get_host_assignments,
    parse_hosts,
)
from horovod.runner.http.http_server import (  # type: ignore[import-not-found]
    RendezvousServer,
)

hosts, ranks, file = sys.argv[1:]
server = RendezvousServer()
port = server.start()
server.init(get_host_assignments(parse_hosts(hosts), int(ranks)))
with open(f"{file}.new", "w", encoding="ascii") as new:  # noqa: PTH123 - any Python of a job's
    new.write(f"{port}\n")
os.rename(f"{file}.new", file)  # noqa: PTH104 - as above
signal.pause()
