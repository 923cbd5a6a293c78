"""Workers of torch.distributed that add up their numbers."""

import torch  # type: ignore[import-not-found]
import torch.distributed as dist  # type: ignore[import-not-found]

dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank())])
dist.all_reduce(total)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {total.item():g}", flush=True)
dist.destroy_process_group()
