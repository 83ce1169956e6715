"""How fast workers exchange gradients."""

import time

import torch
import torch.distributed as dist


SMALL_BYTES, LARGE_BYTES = 4 * 2**10, 64 * 2**20
"""Of one all-reduce: where its latency counts, and where the network does."""
TIMES = {SMALL_BYTES: 20, LARGE_BYTES: 3}


def all_reduce_s(device: torch.device) -> dict[int, float]:
    """Seconds of an all-reduce, by its bytes, in the process group of this process; all its members must call this.

    Raises RuntimeError when the sum that comes back is wrong.
    """
    return {num_bytes: _mean_s(num_bytes, times, device) for num_bytes, times in TIMES.items()}


def _mean_s(num_bytes: int, times: int, device: torch.device) -> float:
    values = torch.ones(num_bytes // 4, device=device)
    dist.all_reduce(values)  # also opens connections, which is not timed
    if not bool((values == dist.get_world_size()).all()):
        raise RuntimeError(f"an all-reduce of {num_bytes} bytes over {dist.get_world_size()} workers gave a wrong sum")
    dist.barrier()
    begun = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(values)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / times
