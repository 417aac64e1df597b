"""The link between ranks: measured, and what it predicts."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

_REPETITIONS = 5


@dataclass(frozen=True)
class Link:
    gigabits: float
    """Per second, one stream, to the next rank while the previous one sends; the slowest rank's."""
    latency_us: float
    """Of an allreduce of one element; the slowest rank's."""

    def predicted_ms(self, compute_ms: float, sent_bytes: int, late_share: float) -> float:
        """A step in which the link works behind backward and codecs cost nothing.

        Forward is a third of the compute. Nothing can leave before backward has begun, and the last
        bucket (``late_share`` of the bytes) not before it has ended.
        """
        wire_ms = sent_bytes * 8 / (self.gigabits * 1e6)
        busy = max(compute_ms / 3 + wire_ms, compute_ms + late_share * wire_ms)
        return busy + self.latency_us / 1e3


def measure(device: torch.device, megabytes: int) -> Link:
    """Collective. Every rank streams to the next at once, as in a ring."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    outgoing = torch.zeros(megabytes * 1_000_000, dtype=torch.uint8, device=device)
    incoming = torch.empty_like(outgoing)

    def stream() -> None:
        operations = [
            dist.P2POp(dist.isend, outgoing, (rank + 1) % ranks),
            dist.P2POp(dist.irecv, incoming, (rank - 1) % ranks),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    one = torch.zeros(1, device=device)
    seconds = _median_seconds(stream, device)
    latency = _median_seconds(lambda: dist.all_reduce(one), device)
    return Link(
        outgoing.numel() * 8 / slowest(seconds, device) / 1e9, 1e6 * slowest(latency, device)
    )


def slowest(value: float, device: torch.device) -> float:
    """Collective: the largest of all ranks' values."""
    tensor = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.item()


def _median_seconds(run: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(1 + _REPETITIONS):  # the first opens the connection
        dist.barrier()
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])
