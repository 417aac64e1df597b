"""auto: picks the codec that is fastest here, by trying them."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from thinwire import _core
from thinwire import _torch_private as private

SAFE = ("none", "bf16", "int8", "int4")
"""The loss curve is the uncompressed one with each of these, under any optimizer."""

_MOST_ELEMENTS = {"cpu": 1 << 20, "cuda": 25 << 18}
"""On GPUs one of DDP's buckets of 25 MB: smaller ones cost mostly their latency."""
_REPETITIONS = {"cpu": 3, "cuda": 5}
_GAIN = {"cpu": 0.95, "cuda": 0.75}
"""A codec has to take less than this part of the time of "none". On CPUs more is noise; on a GPU
coding takes its share of memory and processors from backward, which the wire does not."""


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
    on_gpu = communicator.device >= 0
    device = torch.device("cuda", communicator.device) if on_gpu else torch.device("cpu")
    numel = max(1, min(elements, _MOST_ELEMENTS[device.type]))
    generator = torch.Generator(device).manual_seed(0)  # the user's seed is the user's
    values = torch.randn(numel, device=device, generator=generator)
    plain = values.clone()
    mine = {"none": _milliseconds(lambda: dist.all_reduce(plain, group=group), device)}
    for codec in SAFE[1:]:
        mine[codec] = _milliseconds(_exchange(communicator, codec, values.clone()), device)
    # All ranks see the same texts and so make the same choice.
    all_ranks = [json.loads(text) for text in communicator.gather_texts(json.dumps(mine))]
    slowest = {codec: max(times[codec] for times in all_ranks) for codec in SAFE}
    best = min(SAFE, key=lambda codec: slowest[codec])
    if slowest[best] > _GAIN[device.type] * slowest["none"]:
        best = "none"
    return Choice(best, slowest, numel)


def _exchange(
    communicator: "_core.Communicator", codec: str, buffer: torch.Tensor
) -> Callable[[], object]:
    numel = buffer.numel()
    if buffer.is_cuda:
        on_gpu = _core.CudaAllreduce(communicator, f"auto {codec}", numel, "f32", codec)
        stream = torch.cuda.current_stream(buffer.device).cuda_stream
        return lambda: on_gpu.run(buffer.data_ptr(), numel, "f32", stream)
    on_host = _core.Allreduce(communicator, f"auto {codec}", numel, "f32", codec)
    return lambda: on_host.run(buffer.data_ptr(), numel, "f32")


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    repetitions = _REPETITIONS[device.type]
    run()
    if device.type == "cuda":  # one after the other, as buckets come, so that the GPU has no gaps
        begin, end = (private.timing_event() for _ in range(2))
        begin.record()
        for _ in range(repetitions):
            run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / repetitions
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
