"""auto: picks the codec that is fastest here, by trying them."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from thinwire import _core

SAFE = ("none", "bf16", "int8", "int4")
"""The loss curve is the uncompressed one with each of these, under any optimizer."""

_MOST_ELEMENTS = 1 << 20
_REPETITIONS = 3
_GAIN = 0.95  # a codec has to beat "none" by this much: below is noise


@dataclass(frozen=True)
class Choice:
    codec: str
    milliseconds: dict[str, float]
    """Of one exchange of ``elements`` fp32 elements, by codec; the slowest rank's."""
    elements: int

    def __str__(self) -> str:
        times = ", ".join(f"{codec} {ms:.2f}" for codec, ms in self.milliseconds.items())
        return f"auto picks {self.codec}: ms for {self.elements} elements: {times}"


def choose(communicator: "_core.Communicator", group: dist.ProcessGroup, elements: int) -> Choice:
    """Collective. Times each codec of SAFE on this machine and network, codec time included."""
    numel = max(1, min(elements, _MOST_ELEMENTS))
    values = torch.randn(numel)
    mine = {"none": _milliseconds(lambda: dist.all_reduce(values.clone(), group=group))}
    for codec in SAFE[1:]:
        exchange = _core.Allreduce(communicator, f"auto {codec}", numel, "f32", codec)
        buffer = values.clone()

        def run(e: "_core.Allreduce" = exchange, b: torch.Tensor = buffer) -> None:
            e.run(b.data_ptr(), numel, "f32")

        mine[codec] = _milliseconds(run)
    # All ranks see the same texts and so make the same choice.
    all_ranks = [json.loads(text) for text in communicator.gather_texts(json.dumps(mine))]
    slowest = {codec: max(times[codec] for times in all_ranks) for codec in SAFE}
    best = min(SAFE, key=lambda codec: slowest[codec])
    if slowest[best] > _GAIN * slowest["none"]:
        best = "none"
    return Choice(best, slowest, numel)


def _milliseconds(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(_REPETITIONS):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)
