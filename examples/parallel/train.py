"""Workers of Horovod that add up their numbers."""

import horovod.torch as hvd  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]

hvd.init()
total = hvd.allreduce(torch.tensor([float(hvd.rank())]), op=hvd.Sum)
print(f"rank {hvd.rank()} of {hvd.size()}: {total.item():g}", flush=True)
