"""Actors of Ray, as wide as a node each, that say where they are."""

import socket

import ray  # type: ignore[import-not-found]

ray.init(logging_level="error")


@ray.remote(num_cpus=2, scheduling_strategy="SPREAD")
class Where:
    def name(self) -> str:
        return socket.gethostname()


actors = [Where.remote() for _ in range(3)]
print(*sorted(ray.get([actor.name.remote() for actor in actors])))
