"""Ranks that add up their numbers."""

from mpi4py.MPI import COMM_WORLD as WORLD  # type: ignore[import-not-found]
from mpi4py.MPI import Get_processor_name

total = WORLD.allreduce(WORLD.rank)
print(f"rank {WORLD.rank} of {WORLD.size} on {Get_processor_name()}: {total}", flush=True)
