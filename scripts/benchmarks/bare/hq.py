"""HyperQueue beside ours, run by the interpreter of .venv-bench: `hq.py FILE WIDTH`.

FILE has a JSON list of [argv, cores]. The end is taken from a last task that depends on all others,
since HyperQueue's client looks only once a second; the first line says how long it took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hyperqueue import Client, Job, LocalCluster  # type: ignore[import-not-found]
from hyperqueue.cluster import WorkerConfig  # type: ignore[import-not-found]
from hyperqueue.task.task import ResourceRequest  # type: ignore[import-not-found]

tasks, width = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), int(sys.argv[2])
mark = Path(sys.argv[1] + ".end")
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=width))
    client: Client = cluster.client()
    job = Job()
    all_of_them = [
        job.program(argv, stdout=None, stderr=None, resources=ResourceRequest(cpus=cores))
        for argv, cores in tasks
    ]
    job.program(["/bin/touch", str(mark)], deps=all_of_them, stdout=None, stderr=None)
    began = time.time()
    client.wait_for_jobs([client.submit(job)])
    print(mark.stat().st_mtime - began)
